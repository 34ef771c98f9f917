#!/usr/bin/env python3
"""Assemble the Python environment that a package bundles under /usr/lib/fleven/ROLE.

Why it exists: the environment must be complete, small, the same bits in every build, and made without running
a program of the target, so that one machine builds for every architecture. It is a virtual environment in all but its
maker: pyvenv.cfg, bin/python3 linked to the suite's interpreter, lib/pythonX.Y/site-packages.
It must not import anything of fleven or outside the standard library: it runs before anything is installed.

packaging/build-deb.sh calls it; `environment.py --help` lists the arguments.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from bundled_licences import write_copyright
from lock import TARGETS, Target, pip_find_links
from strip import strip_all

HERE = Path(__file__).resolve().parent

# Commands that a role runs. Everything else that the dependencies would put on PATH is left out.
COMMANDS = {
    "node": ("fleven", "fleven-agent", "flower-supernode", "flower-superexec", "flwr-clientapp"),
    # The server also holds what a node runs, so that `fleven demo` shows a whole federation on one machine.
    "server": (
        "fleven", "fleven-agent", "fleven-server", "flower-superlink", "flower-superexec", "flower-supernode",
        "flwr", "flwr-clientapp", "flwr-serverapp",
    ),
}  # fmt: skip
# Parts of the project itself that a role does not run.
PROJECT_PARTS_LEFT_OUT = {"node": ("fleven/server",), "server": ()}
# Only a source archive exists; it holds one Python module and nothing to compile.
SOURCE_ONLY = ("sdnotify",)
STRIP = {"amd64": "x86_64-linux-gnu-strip", "arm64": "aarch64-linux-gnu-strip"}
PROGRAMS = ("torch_shm_manager",)  # compiled, below site-packages
CUDA_SIGNS = ("nvidia*", "triton", "torch/lib/libtorch_cuda*", "torch/lib/libcud*", "torch/lib/libc10_cuda*")
# Libraries of the suite that the packages depend on (debian/control); all others must be inside.
SYSTEM_LIBRARIES = re.compile(
    r"^(lib(c|m|dl|rt|pthread|util|resolv)\.so\.\d+|libstdc\+\+\.so\.6|libgcc_s\.so\.1|libz\.so\.1|ld-linux-.*\.so\.\d)$"
)


class BuildError(Exception):
    """A reason to stop the build, in one sentence for the person who runs it."""


def no_cpu_torch(target: Target) -> BuildError:
    return BuildError(
        f"no CPU build of torch {target.torch} for Python {target.python} on {target.architecture} is available here "
        f"({target.suite}), and a CUDA build is never bundled; build where an index of CPU wheels is configured "
        f"(PIP_FIND_LINKS, or uv's --torch-backend cpu can reach one), after "
        f"packaging/lock.py --suite {target.suite} --arch {target.architecture} there"
    )


def install_wheels(role: str, target: Target, lock: Path, site: Path) -> None:
    """Put the locked distributions into `site`.

    Raises:
        BuildError: a wheel is missing or has another hash, or only a CUDA build of torch was found.
    """
    command = [
        "uv", "pip", "install", "--quiet", "--target", str(site), "--link-mode", "copy", "--no-deps",
        "--python-version", target.python, "--python-platform", target.platform,
        "--require-hashes", "--requirements", str(lock), "--only-binary", ":all:",
        *(argument for name in SOURCE_ONLY for argument in ("--no-binary", name)),
    ]  # fmt: skip
    # First as this machine is set up (pip's folders of wheels are handed to uv), then from PyTorch's own CPU index.
    attempts = [[argument for link in pip_find_links() for argument in ("--find-links", link)]]
    if target.torch.endswith("+cpu"):
        attempts.append(["--torch-backend", "cpu"])
    said = []
    for extra in attempts:
        shutil.rmtree(site, ignore_errors=True)
        environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
        answer = subprocess.run([*command, *extra], capture_output=True, text=True, check=False, env=environment)
        if answer.returncode == 0:
            return
        said.append(answer.stderr.strip())
    if re.search(r"\btorch\b", said[0]):
        raise no_cpu_torch(target)
    raise BuildError(f"{lock.name}: the wheels of fleven-{role} could not be installed: {said[0]}")


def refuse_cuda(site: Path) -> None:
    """Stop when anything of CUDA got in.

    Raises:
        BuildError: naming what was found.
    """
    found = [str(path.relative_to(site)) for sign in CUDA_SIGNS for path in site.glob(sign)]
    version = (site / "torch/version.py").read_text()
    if re.search(r"^cuda\b.*=\s*['\"]", version, re.MULTILINE):
        found.append("torch/version.py")
    if found:
        raise BuildError(f"this torch is a CUDA build ({', '.join(found)}); only a CPU build may be bundled")


def install_project(wheel: Path, site: Path, role: str) -> None:
    """Unpack the project's own wheel and leave out the parts that the role does not run."""
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)], check=True)
    for part in PROJECT_PARTS_LEFT_OUT[role]:
        shutil.rmtree(site / part)


def prune(site: Path) -> None:
    """Take out what never runs, as listed in prune.toml.

    Raises:
        BuildError: a pattern matches nothing: the list no longer fits the locked versions.
    """
    rules = tomllib.loads((HERE / "prune.toml").read_text())["rule"]
    for rule in rules:
        for pattern in rule["paths"]:
            # pathlib's `**` at the end yields folders only
            found = [p for p in site.glob(pattern + "/*" if pattern.endswith("**") else pattern) if not p.is_dir()]
            if not found and not rule.get("optional", False):
                raise BuildError(f"prune.toml: {pattern}: matches nothing (remove it, or mark its rule optional)")
            for path in found:
                path.unlink()
    for folder in sorted((p for p in site.rglob("*") if p.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def entry_points(site: Path) -> dict[str, str]:
    """Return `module:function` of every console script that the installed distributions declare."""
    found: dict[str, str] = {}
    for file in sorted(site.glob("*.dist-info/entry_points.txt")):
        parser = configparser.ConfigParser(delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
        parser.read_string(file.read_text())
        if parser.has_section("console_scripts"):
            found.update(parser["console_scripts"])
    return found


def write_scripts(root: Path, site: Path, role: str, prefix: str) -> None:
    """Write the role's commands. They ignore the caller's PYTHON* variables and folder (-I), and print at once (-u).

    Raises:
        BuildError: a command is not declared by what is installed.
    """
    declared = entry_points(site)
    folder = root / "bin"
    folder.mkdir()
    for name in COMMANDS[role]:
        if name not in declared:
            raise BuildError(f"no distribution declares the command {name}")
        module, _, function = declared[name].partition(":")
        script = folder / name
        script.write_text(
            f"#!{prefix}/bin/python3 -Iu\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"
        )
        script.chmod(0o755)


def shared_objects(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and (".so" in path.name or path.name in PROGRAMS):
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def drop_first_lines(site: Path) -> None:
    """Turn `#!` lines of modules into comments: they are imported, and many name interpreters that Debian lacks."""
    for path in site.rglob("*.py"):
        content = path.read_bytes()
        if content.startswith(b"#!"):
            path.write_bytes(b"#" + content[2:])


def check_libraries(root: Path) -> None:
    """Every library that a bundled one needs must be bundled, or come with the packages' dependencies.

    Raises:
        BuildError: naming each missing one: pruning went too deep, or debian/control lacks a dependency.
    """
    objects = list(shared_objects(root))
    inside = {path.name for path in objects}
    missing = set()
    for path in objects:
        dump = subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True, check=True).stdout
        for needed in re.findall(r"\(NEEDED\)\s+Shared library: \[([^]]+)\]", dump):
            if needed not in inside and not SYSTEM_LIBRARIES.match(needed):
                missing.add(f"{path.relative_to(root)} needs {needed}")
    if missing:
        raise BuildError("libraries that nothing provides: " + "; ".join(sorted(missing)))


def assemble(role: str, target: Target, wheel: Path, root: Path, copyright_file: Path) -> None:
    """Build the whole environment of a role below `root`, for the place where the package will put it."""
    lock = HERE / "requirements" / f"{role}-{target.name}.txt"
    if not lock.exists():
        raise no_cpu_torch(target)
    prefix = f"/usr/lib/fleven/{role}"
    site = root / "lib" / f"python{target.python}" / "site-packages"
    site.parent.mkdir(parents=True)
    install_wheels(role, target, lock, site)
    refuse_cuda(site)
    write_copyright(site, str(Path(prefix).relative_to("/") / site.relative_to(root)), copyright_file)
    install_project(wheel, site, role)
    prune(site)
    drop_first_lines(site)
    write_scripts(root, site, role, prefix)
    (root / "bin/python3").symlink_to(f"/usr/bin/python{target.python}")
    (root / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {target.python}\n"
    )
    kept = strip_all(list(shared_objects(root)), STRIP[target.architecture])
    print(f"fleven-{role}: {len(kept)} libraries cannot be stripped: {' '.join(path.name for path in kept)}")
    check_libraries(root)
    for path in root.rglob("*"):
        if not path.is_symlink():
            # Wheels mark libraries, and some modules, as executable; only these are programs.
            program = path.parent == root / "bin" or path.name in PROGRAMS
            path.chmod(0o755 if path.is_dir() or program else 0o644)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("role", choices=("node", "server"))
    parser.add_argument("--suite", required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--wheel", required=True, type=Path, help="the project's own wheel")
    parser.add_argument("--destination", required=True, type=Path, help="folder to make; must not exist")
    parser.add_argument("--copyright", required=True, type=Path, help="file to write all bundled licences to")
    arguments = parser.parse_args()
    target = next(t for t in TARGETS if (t.suite, t.architecture) == (arguments.suite, arguments.arch))
    try:
        assemble(arguments.role, target, arguments.wheel, arguments.destination, arguments.copyright)
    except BuildError as problem:
        print(f"build-deb: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
