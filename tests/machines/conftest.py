"""Fixtures of the tests on booted machines: the packages, and one fleet that the tests of a module share."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for testbed, which is no package of the project

from testbed import previous
from testbed.base import host_architecture
from testbed.bed import Bed
from testbed.fleet import Fleet
from testbed.shell import BedError, missing_programs

PROJECT = Path(__file__).resolve().parents[2]
STEPS = pytest.StashKey[list[tuple[str, float]]]()
"""What was done, and how many seconds it took: shown at the end, whatever the result."""
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


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STEPS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    steps = config.stash.get(STEPS, [])
    if steps:
        terminalreporter.section("seconds of each step")
    for step, seconds in steps:
        terminalreporter.write_line(f"{seconds:8.1f} s  {step}")


@pytest.fixture(scope="session")
def suite() -> str:
    """Debian release of the machines (FLEVEN_MACHINES_SUITE)."""
    return os.environ.get("FLEVEN_MACHINES_SUITE", "bookworm")


@pytest.fixture(scope="session")
def machines_boot(suite: str, pytestconfig: pytest.Config) -> None:
    """Skip where a bare Debian machine, with nothing of fleven on it, does not come up: nothing can be proven there."""
    begin = time.monotonic()
    try:
        with Bed(f"fp{os.getpid() % 10_000}", suite, host_architecture()) as bed:
            pytestconfig.stash[STEPS].append((f"base of the machines ({suite})", time.monotonic() - begin))
            bed.start(bed.add("bare"))
    except (BedError, OSError) as error:
        pytest.skip(f"no systemd machine boots here: {error}")


@pytest.fixture(scope="session")
def previous_build(
    request: pytest.FixtureRequest, suite: str, machines_boot: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[previous.Build | None]:
    """The release before, whose packages are built beside all else; None when nobody needs them, or none is known."""
    needed = any("previous_debs" in getattr(item, "fixturenames", ()) for item in request.session.items)
    commit = previous.commit_of(previous.RELEASE) if needed and "FLEVEN_PREVIOUS_DEBS" not in os.environ else ""
    build = previous.start(commit, suite, tmp_path_factory.mktemp("previous")) if commit else None
    yield build
    if build is not None:
        build.end()


@pytest.fixture(scope="session")
def debs(
    suite: str,
    machines_boot: None,
    previous_build: previous.Build | None,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Path:
    """Folder with both packages, built from this checkout, or the one that FLEVEN_DEBS names."""
    if given := os.environ.get("FLEVEN_DEBS"):
        return Path(given).resolve()
    folder = tmp_path_factory.mktemp("debs")
    command = [PROJECT / "packaging/build-deb.sh", "--suite", suite, "--fast", "--output", folder, "all"]
    begin = time.monotonic()
    subprocess.run(command, check=True)
    pytestconfig.stash[STEPS].append(("build of both packages", time.monotonic() - begin))
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
        request.config.stash[STEPS].extend(made.seconds.items())
