"""Members of the services' group use the commands without root; others get one line that says what to do."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from other_users import python_for_others

from fleven.server.database import open_store

SERVICE, MEMBER, STRANGER, GROUP = 64001, 64002, 64003, 64010
Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as other users")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs `fleven-server` as another user, over a folder as the package makes it."""
    python = python_for_others()
    if python is None:
        pytest.skip("no other user can start a Python that has what this one has")
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, SERVICE, GROUP)
    state.chmod(0o2770)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    config = tmp_path / "server.toml"
    config.write_text("insecure = true\n")
    config.chmod(0o644)
    environment = {"FLEVEN_SERVER_STATE_DIR": str(state), "FLEVEN_SERVER_CONFIG": str(config), "HOME": "/nonexistent"}

    def call(user: int, group: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = "import os, sys; os.umask(0o022); from fleven.server.cli.main import main; main()"
        return subprocess.run(
            [python[0], "-c", program, *arguments],
            env={**os.environ, **environment, "PYTHONDONTWRITEBYTECODE": "1", **python[1]},
            user=user, group=group, extra_groups=[], cwd="/", text=True, capture_output=True, timeout=60,
        )  # fmt: skip

    return call


def test_members_of_the_group_use_the_commands_beside_the_service(run: Run, tmp_path: Path) -> None:
    made = run(SERVICE, GROUP, "users", "add", "eva")
    assert made.returncode == 0, made.stderr
    register = tmp_path / "state" / "register.db"
    assert stat.S_IMODE(register.stat().st_mode) == 0o660
    # While the service has it open, with its write-ahead log beside it, and when nobody has.
    store = open_store(register)
    try:
        assert run(MEMBER, GROUP, "users", "disable", "eva").returncode == 0
        assert run(MEMBER, GROUP, "users", "add", "ana").returncode == 0
    finally:
        store.close()
    assert run(MEMBER, GROUP, "users", "enable", "eva").returncode == 0
    assert run(SERVICE, GROUP, "users", "logout", "eva").returncode == 0
    for command in (("nodes",), ("runs",), ("users",), ("users", "log")):
        assert run(MEMBER, GROUP, *command).returncode == 0, command
    log = run(MEMBER, GROUP, "users", "log").stdout
    assert "user-disabled" in log
    assert f"uid {MEMBER}" in log
    assert all(file.stat().st_gid == GROUP for file in register.parent.iterdir())


def test_a_register_of_the_version_before_is_opened_to_the_group(run: Run, tmp_path: Path) -> None:
    assert run(SERVICE, GROUP, "users", "add", "ana").returncode == 0
    register = tmp_path / "state" / "register.db"
    register.chmod(0o600)
    assert run(MEMBER, GROUP, "nodes").returncode == 1
    assert run(SERVICE, GROUP, "nodes").returncode == 0
    assert run(MEMBER, GROUP, "nodes").returncode == 0


def test_others_are_told_in_one_line_what_to_do(run: Run) -> None:
    assert run(SERVICE, GROUP, "users", "add", "ana").returncode == 0
    for command in (("nodes",), ("users",), ("schedule", "pause", "x")):
        done = run(STRANGER, STRANGER, *command)
        assert done.returncode == 1
        assert done.stdout == ""
        assert "use sudo" in done.stderr
        assert len(done.stderr.strip().splitlines()) <= 2
        assert "Traceback" not in done.stderr


def test_a_folder_that_only_its_owner_may_write_keeps_its_register_closed(tmp_path: Path) -> None:
    store = open_store(tmp_path / "register.db")
    store.close()
    assert stat.S_IMODE((tmp_path / "register.db").stat().st_mode) == 0o600
