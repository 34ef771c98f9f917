"""Whether a running service sees a path that a person names."""

import os
from pathlib import Path

import pytest

from fleven.server import service_user
from fleven.server.service_user import is_hidden_from


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
