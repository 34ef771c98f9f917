"""Whether a running service sees a path that a person names, and can read the files it needs."""

import os
import pwd
from pathlib import Path

import pytest

from fleven.server import service_user
from fleven.server.config.loader import Loaded
from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig
from fleven.server.service_user import is_hidden_from, unreadable_for_service


def test_a_process_that_sees_the_same_files_hides_none(tmp_path: Path) -> None:
    assert not is_hidden_from(os.getpid(), tmp_path)
    assert is_hidden_from(os.getpid(), tmp_path / "absent")


def test_a_path_is_looked_for_below_the_root_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a unit with ProtectHome: the folder is there for people and not below the service's own root."""
    root = tmp_path / "proc/7/root"
    (root / "srv/app").mkdir(parents=True)
    real = Path

    def from_here(path: str) -> Path:
        return real(f"{tmp_path}{path}" if path.startswith("/proc/") else path)

    monkeypatch.setattr(service_user, "Path", from_here)
    assert not is_hidden_from(7, real("/srv/app"))
    assert is_hidden_from(7, real("/home/pi/app"))
    assert not is_hidden_from(8, real("/home/pi/app")), "nobody knows what a process sees that cannot be looked at"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try another user")
def test_root_is_told_of_what_the_services_user_cannot_read(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    paths = Paths(tmp_path / "state")
    paths.state.mkdir()
    file = Path("/etc/hostname")
    assert unreadable_for_service(Loaded(ServerConfig(), (file,)), paths) == []
    os.chown(paths.state, nobody.pw_uid, nobody.pw_gid)
    assert unreadable_for_service(Loaded(ServerConfig(), (file,)), paths) == []
    (line,) = unreadable_for_service(Loaded(ServerConfig(), (file, Path("/etc/shadow"))), paths)
    assert line.startswith("/etc/shadow is not readable by the service's user nobody")
