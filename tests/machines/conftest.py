"""Fixtures of the tests on booted machines: the packages, and one fleet that the tests of a module share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for testbed, which is no package of the project

from testbed.base import host_architecture
from testbed.bed import Bed
from testbed.fleet import Fleet
from testbed.shell import missing_programs

PROJECT = Path(__file__).resolve().parents[2]
NEEDED = ("systemd-nspawn", "mmdebstrap", "dh", "ip", "nsenter", "unshare", "setpriv", "readelf", "rst2man")


def why_not() -> str:
    """Reason why no machine can be booted here; empty when it can."""
    if os.geteuid() != 0:
        return "booting machines needs root"
    if missing := missing_programs(*NEEDED):
        return f"missing programs: {', '.join(missing)} (run tests/machines/setup as root)"
    probe = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "this host does not allow new namespaces"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    ours = [item for item in items if item.path.is_relative_to(here)]
    if ours and (reason := why_not()):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def suite() -> str:
    """Debian release of the machines (FLEVEN_MACHINES_SUITE)."""
    return os.environ.get("FLEVEN_MACHINES_SUITE", "bookworm")


@pytest.fixture(scope="session")
def debs(suite: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with both packages, built from this checkout, or the one that FLEVEN_DEBS names."""
    if given := os.environ.get("FLEVEN_DEBS"):
        return Path(given).resolve()
    folder = tmp_path_factory.mktemp("debs")
    command = [PROJECT / "packaging/build-deb.sh", "--suite", suite, "--fast", "--output", folder, "all"]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest, suite: str, debs: Path) -> Iterator[Fleet]:
    """Four machines, booted, with nothing of fleven on them. All journals are kept when a test fails."""
    kept = Path(os.environ.get("FLEVEN_MACHINES_LOGS", "/tmp/fleven-machines-logs"))
    failures = request.session.testsfailed
    with Bed(f"fl{os.getpid() % 10_000}", suite, host_architecture(), kept) as bed:
        made = Fleet.on(bed, debs)
        made.boot()
        yield made
        if request.session.testsfailed > failures:
            bed.collect(kept)
            print(f"journals of all machines: {kept}")
        print("\n" + "\n".join(f"{seconds:8.1f} s  {step}" for step, seconds in made.seconds.items()))
