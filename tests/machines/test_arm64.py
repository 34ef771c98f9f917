"""The arm64 packages on emulated Raspberry Pi processors: they install by apt, and compute what amd64 computes.

Guards the locked torch: one that uses instructions which a Pi 3 or 4 does not have dies here, and not in a car.
Emulation is slow; choose the suite with FLEVEN_ARM64_SUITE (default bookworm).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from testbed import base
from testbed.fleet import newer_version
from testbed.shell import run

pytestmark = [pytest.mark.machines, pytest.mark.slow, pytest.mark.timeout(7200)]

PROJECT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).with_name("train_probe.py")
# Raspberry Pi 3 and Zero 2; 4; 5.
PROCESSORS = ("cortex-a53", "cortex-a72", "cortex-a76")
PYTHON = "/usr/lib/fleven/node/bin/python3"
RELATIVE = 1e-4
# What apt and dpkg keep about packages that were there, and what the kernel shows.
CHANGES_ANYWAY = re.compile(
    r"^(proc|sys|dev|run|tmp|root|var/(log|cache|tmp)|var/lib/(dpkg|apt|systemd))(/|$)|/__pycache__(/|$)"
    r"|^etc/(passwd|group|shadow|gshadow)-$"
)


class Userland(NamedTuple):
    """A root folder of arm64 Debian.

    Attributes:
        root: where it is.
        before: what was in it before the package, files and users.
    """

    root: Path
    before: set[str]


def trace(root: Path) -> set[str]:
    """All that a package could leave behind: files, users and groups."""
    files = run("find", str(root), "-xdev", "-mindepth", "1", "-printf", "%P\\n").splitlines()
    tables = [(root / "etc" / name).read_text().splitlines() for name in ("passwd", "group")]
    users = [line.split(":")[0] for table in tables for line in table]
    return {path for path in files if not CHANGES_ANYWAY.search(path)} | {f"user or group {name}" for name in users}


def apt(root: Path, *arguments: str) -> str:
    """Run apt-get in a root folder; returns what it printed."""
    return run("chroot", str(root), "apt-get", "-y", *arguments, timeout_seconds=3000)


@pytest.fixture(scope="module")
def suite() -> str:
    return os.environ.get("FLEVEN_ARM64_SUITE", "bookworm")


@pytest.fixture(scope="module")
def trips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One car's synthetic trips, made once and read on every processor."""
    folder = tmp_path_factory.mktemp("trips") / "made"
    program = shutil.which("fleven", path=f"{PROJECT / '.venv/bin'}:{os.environ['PATH']}")
    assert program is not None
    subprocess.run(
        [
            program,
            "data",
            "synthesise",
            folder,
            "--cars",
            "1",
            "--trips",
            "1",
            "--minutes",
            "5",
            "--seed",
            "1",
            "--force",
        ],
        check=True,
    )
    return folder / "client_0"


@pytest.fixture(scope="module")
def userland(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Userland]:
    """A root folder of arm64 Debian with fleven-node installed by apt."""
    if base.host_architecture() == "arm64":
        pytest.skip("this machine is arm64 itself; its processors are not emulated")
    if given := os.environ.get("FLEVEN_DEBS"):
        debs = Path(given)
    else:
        debs = tmp_path_factory.mktemp("debs")
        build = [
            PROJECT / "packaging/build-deb.sh",
            "--suite",
            suite,
            "--arch",
            "arm64",
            "--fast",
            "--output",
            debs,
            "node",
        ]
        subprocess.run(build, check=True)
    root = tmp_path_factory.mktemp("root") / "arm64"
    base.allow_foreign_programs("arm64")
    run("cp", "-a", str(base.base(suite, "arm64")), str(root))
    suffix = {"bookworm": "deb12", "trixie": "deb13"}[suite]
    [package] = debs.glob(f"fleven-node_*{suffix}_arm64.deb")
    shutil.copy(package, root / "root/fleven-node.deb")
    before = trace(root)
    apt(root, "install", "./root/fleven-node.deb")
    yield Userland(root, before)
    shutil.rmtree(root)


def figures(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    answer = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert answer.returncode == 0, f"{answer.returncode}: {answer.stderr[-2000:]}"
    return dict(json.loads(answer.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def expected(trips: Path) -> dict[str, Any]:
    """What this machine computes, with its own torch and the code of this checkout."""
    python = PROJECT / ".venv/bin/python"
    return figures([str(python if python.exists() else shutil.which("python3")), str(PROBE), str(trips)], {})


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_raspberry_pi_trains_and_computes_the_same(
    userland: Userland, trips: Path, expected: dict[str, Any], processor: str
) -> None:
    work = userland.root / "root/probe"
    shutil.copytree(trips, work / "trips", dirs_exist_ok=True)
    shutil.copy(PROBE, work)
    found = figures(
        [
            "chroot",
            str(userland.root),
            "/usr/lib/fleven/node/bin/python3",
            "-I",
            "/root/probe/train_probe.py",
            "/root/probe/trips",
        ],
        {"QEMU_CPU": processor, "OMP_NUM_THREADS": "1", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert found["machine"] == "aarch64"
    assert found["steps"] == expected["steps"] > 0
    for name in ("train_loss", "rmse", "mae", "weights_norm"):
        assert found[name] == pytest.approx(expected[name], rel=RELATIVE), (name, found, expected)


@pytest.mark.parametrize("processor", PROCESSORS)
def test_every_program_of_the_package_starts(userland: Userland, processor: str) -> None:
    for command in (
        ["fleven-agent", "--version"],
        ["fleven", "data", "columns"],
        ["/usr/lib/fleven/node/bin/flower-supernode", "--help"],
        ["/usr/lib/fleven/node/bin/flower-superexec", "--help"],
        ["/usr/lib/fleven/node/bin/flwr-clientapp", "--help"],
    ):
        answer = subprocess.run(
            ["chroot", str(userland.root), *command], capture_output=True, text=True, check=False,
            env={"QEMU_CPU": processor, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
        )  # fmt: skip
        assert answer.returncode == 0, (command, answer.stderr[-1500:])


def test_upgrade_remove_and_purge_leave_nothing(userland: Userland) -> None:
    root = userland.root
    configuration = root / "etc/fleven/node.toml"
    configuration.write_text('partition-id = 1\nsuperlink = "100.64.0.1:9092"\n')
    newer_version(root / "root/fleven-node.deb", root / "root/newer.deb")
    apt(root, "install", "./root/newer.deb")
    assert "partition-id = 1" in configuration.read_text()
    apt(root, "remove", "fleven-node")
    assert "partition-id = 1" in configuration.read_text()
    apt(root, "purge", "fleven-node")
    assert trace(root) - userland.before == set()
