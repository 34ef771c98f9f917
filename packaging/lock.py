#!/usr/bin/env python3
"""Write the locks under packaging/requirements/: what each package bundles, for each suite and architecture.

Why it exists: a package must hold exactly the wheels that were tested, on every machine that builds it. One
lock a package and target names each distribution with its version and the hashes of the wheels that fit the target.
It must not import anything of fleven: it runs before the project is installed.

Usage: packaging/lock.py [--suite SUITE] [--arch ARCH]        needs `uv` on PATH
       (packaging/build-deb.sh reads the locks; run this after a change of the dependencies in pyproject.toml)
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
REQUIREMENTS = HERE / "requirements"


@dataclass(frozen=True)
class Target:
    """One kind of machine that a package is for.

    Attributes:
        suite: Debian's code name.
        architecture: Debian's name of the architecture.
        python: minor version of the suite's python3.
        platform: uv's name of the platform; its glibc is the suite's, so newer wheels are refused.
        torch: the torch that is bundled. See packaging/requirements/README.md for the choice.
    """

    suite: str
    architecture: str
    python: str
    platform: str
    torch: str

    @property
    def name(self) -> str:
        return f"{self.suite}-{self.architecture}"


TARGETS = (
    Target("bookworm", "amd64", "3.11", "x86_64-manylinux_2_36", "2.13.0+cpu"),
    Target("bookworm", "arm64", "3.11", "aarch64-manylinux_2_36", "2.9.1"),
    Target("trixie", "amd64", "3.13", "x86_64-manylinux_2_40", "2.13.0+cpu"),
    Target("trixie", "arm64", "3.13", "aarch64-manylinux_2_40", "2.9.1"),
)

# Declared by a dependency, never imported by what the package runs. tests/machines proves it by running without.
EXCLUDED = {
    "node": {
        "uv": "Flower calls it only to install an app's own dependencies at run time, which is switched off",
        "uvicorn": "serves the SuperLink's HTTP API; a node has none",
        "prompt-toolkit": "interactive prompts of the `flwr` command, which a node does not have",
        "networkx": "torch's compiler only",
        "jinja2": "torch's compiler only",
        "fsspec": "torch's distributed checkpoints only",
        "setuptools": "builds C++ extensions for torch; nothing is compiled on a node",
    },
    "server": {
        "uv": "Flower calls it only to install an app's own dependencies at run time, which is switched off",
        "websockets": "extra of uvicorn; the server speaks no WebSocket",
        "watchfiles": "extra of uvicorn; reloads code while developing",
        "python-dotenv": "extra of uvicorn; reads .env files",
        "networkx": "torch's compiler only",
        "fsspec": "torch's distributed checkpoints only",
        "setuptools": "builds C++ extensions for torch; nothing is compiled on a server",
    },
}


def pip_find_links() -> list[str]:
    """Folders and pages of the user's own pip configuration: pip looks there, uv has to be told."""
    text = os.environ.get("PIP_FIND_LINKS", "")
    if not text:
        answer = subprocess.run(
            [sys.executable, "-m", "pip", "config", "get", "global.find-links"],
            capture_output=True,
            text=True,
            check=False,
        )
        text = answer.stdout
    return text.split()


def wheel_hashes(package: dict[str, Any]) -> list[str]:
    """sha256 of every wheel of a locked package that fits the target; of the source archive where there is no wheel."""
    files = package.get("wheels") or [package["sdist"]]
    hashes = []
    for file in files:
        digest = file["hashes"].get("sha256")
        if digest is None:  # a file of this machine: uv leaves the hashing to us
            path = Path(unquote(urlparse(file["url"]).path)) if "url" in file else Path(file["path"])
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        hashes.append(digest)
    return sorted(set(hashes))


def compile_lock(role: str, target: Target, constraints: dict[str, str]) -> list[dict[str, Any]]:
    """Resolve one package for one target.

    Args:
        role: "node" or "server", an extra of pyproject.toml.
        target: the machine to resolve for.
        constraints: versions that an earlier lock chose, so that all targets hold the same versions.

    Raises:
        SystemExit: uv found no set of wheels; what it said is printed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pins = {**constraints, "torch": target.torch}
        (folder / "constraints.txt").write_text("".join(f"{k}=={v}\n" for k, v in sorted(pins.items())))
        (folder / "excludes.txt").write_text("".join(f"{k}\n" for k in EXCLUDED[role]))
        command = [
            "uv", "pip", "compile", "--quiet", str(PROJECT / "pyproject.toml"), "--extra", role,
            "--python-version", target.python, "--python-platform", target.platform,
            "--constraint", str(folder / "constraints.txt"), "--excludes", str(folder / "excludes.txt"),
            "--format", "pylock.toml", "--output-file", str(folder / "pylock.toml"),
        ]  # fmt: skip
        attempts = [[argument for link in pip_find_links() for argument in ("--find-links", link)]]
        if target.torch.endswith("+cpu"):
            attempts.append(["--torch-backend", "cpu"])
        said = ""
        for extra in attempts:
            answer = subprocess.run([*command, *extra], capture_output=True, text=True, check=False)
            if answer.returncode == 0:
                return list(tomllib.loads((folder / "pylock.toml").read_text())["packages"])
            said = said or answer.stderr
    raise SystemExit(f"{target.name}: no lock for {role}; uv says:\n{said}")


def render(role: str, target: Target, packages: list[dict[str, Any]]) -> str:
    """Text of a lock in pip's requirements format."""
    lines = [
        f"# What fleven-{role} bundles on Debian {target.suite}, {target.architecture}, Python {target.python}.",
        "# Written by packaging/lock.py; why each is there: README.md beside this file. Left out on purpose:",
        *(f"#   {name}: {reason}" for name, reason in EXCLUDED[role].items()),
    ]
    for package in sorted(packages, key=lambda package: package["name"]):
        entries = [f"{package['name']}=={package['version']}"]
        entries += [f"--hash=sha256:{digest}" for digest in wheel_hashes(package)]
        lines.append(" \\\n    ".join(entries))
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")  # no interpreter is needed to resolve for its version
    parser.add_argument("--suite", choices=sorted({target.suite for target in TARGETS}))
    parser.add_argument("--arch", choices=sorted({target.architecture for target in TARGETS}))
    arguments = parser.parse_args()
    if shutil.which("uv") is None:
        raise SystemExit("uv is not on PATH (python3 -m pip install uv)")
    failures: list[str] = []
    shared: dict[str, str] = {}
    for target in TARGETS:
        wanted = arguments.suite in (None, target.suite) and arguments.arch in (None, target.architecture)
        for role in ("server", "node"):
            if not (wanted or not shared):  # the first is always resolved: the others follow its versions
                continue
            try:
                packages = compile_lock(role, target, shared)
            except SystemExit as problem:
                failures.append(str(problem))
                continue
            for package in packages:
                if package["name"] != "torch":
                    shared.setdefault(package["name"], package["version"])
            if wanted:
                path = REQUIREMENTS / f"{role}-{target.name}.txt"
                path.write_text(render(role, target, packages))
                print(f"{path.relative_to(PROJECT)}: {len(packages)} distributions")
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
