"""A state folder that cannot be written is known by its mount at once, by a real write now and then."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from fleven_agent.monitoring import write_probe as module
from fleven_agent.monitoring.write_probe import AGAIN_SECONDS, FILE, WRITE_SECONDS, WriteProbe


class Bed:
    """A probe whose clock, mount flags and writes are the test's."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.flags, self.error, self.writes = 0.0, 0, 0, 0
        self.probe = WriteProbe(folder, lambda: self.now)
        real = os.pwrite

        def pwrite(descriptor: int, content: bytes, offset: int) -> int:
            self.writes += 1
            if self.error:
                raise OSError(self.error, os.strerror(self.error))
            return real(descriptor, content, offset)

        monkeypatch.setattr(module.os, "pwrite", pwrite)
        monkeypatch.setattr(module.os, "statvfs", lambda _path: SimpleNamespace(f_flag=self.flags))

    def problem(self, later: float = 0.0) -> str:
        self.now += later
        self.probe.run()
        return self.probe.problem


@pytest.fixture
def bed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bed:
    return Bed(tmp_path, monkeypatch)


def test_all_is_well_with_one_block_now_and_then(bed: Bed, tmp_path: Path) -> None:
    assert bed.problem() == ""
    assert bed.problem(WRITE_SECONDS - 1) == ""
    assert bed.writes == 1
    assert bed.problem(1) == ""
    assert bed.writes == 2
    assert (tmp_path / FILE).stat().st_size == 512
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_a_mount_that_turned_read_only_is_seen_at_once_and_its_end_by_a_write(bed: Bed) -> None:
    assert bed.problem() == ""
    bed.flags = os.ST_RDONLY
    assert "read-only" in bed.problem(5)
    assert bed.writes == 1
    bed.flags = 0
    assert bed.problem(5) == ""
    assert bed.writes == 2


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EIO])
def test_a_write_that_fails_is_tried_again_soon(bed: Bed, number: int) -> None:
    bed.error = number
    assert os.strerror(number).lower() in bed.problem()
    bed.error = 0
    assert bed.problem(AGAIN_SECONDS - 1)
    assert bed.problem(1) == ""


def test_a_failed_task_asks_for_a_write(bed: Bed) -> None:
    assert bed.problem() == ""
    bed.error = errno.EIO
    assert bed.problem(5) == ""
    bed.probe.want()
    assert bed.problem(5)


def test_a_folder_that_is_gone_is_a_problem(tmp_path: Path) -> None:
    probe = WriteProbe(tmp_path / "gone")
    probe.run()
    assert "gone" in probe.problem
