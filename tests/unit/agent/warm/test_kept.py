"""What tasks may leave in the folder of kept models: files of arrays in folders of experiments, within its bounds."""

import os
import stat
import time
from pathlib import Path

from fleven_agent.warm.kept import Kept


def keep(folder: Path, name: str, size: int = 10) -> Path:
    """Write a file as a task does, readable for nobody else."""
    path = folder / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(bytes(size))
    path.chmod(0o600)
    return path


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_models_stay_and_become_readable_for_the_group(tmp_path: Path) -> None:
    path = keep(tmp_path, "Fleven-Deploy/a.personal.npz")
    assert Kept(tmp_path).tidy() == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
    assert path.read_bytes() == bytes(10)


def test_whatever_else_a_task_has_put_there_goes(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    secret = keep(outside, "x/secret.npz")
    folder = tmp_path / "kept"
    folder.mkdir()
    keep(folder, "run/good.npz")
    keep(folder, "run/half.npz.tmp")
    (folder / "run/link.npz").symlink_to(secret)
    (folder / "run/twin.npz").hardlink_to(secret)
    os.mkfifo(folder / "run/pipe.npz")
    (folder / "run/deep/er").mkdir(parents=True)
    (folder / "file.npz").write_bytes(b"x")
    (folder / "linked").symlink_to(outside / "x")
    closed = folder / "closed"
    closed.mkdir()
    closed.chmod(0)
    folder.chmod(0)
    assert Kept(folder).tidy() == 7
    assert names(folder) == ["run", "run/good.npz"]
    assert secret.read_bytes() == bytes(10)


def test_the_oldest_go_when_there_is_too_much_whatever_time_they_claim(tmp_path: Path) -> None:
    first = keep(tmp_path, "run/first.npz")
    os.utime(first, (2**33, 2**33))
    time.sleep(0.02)  # the file system's clock ticks every few milliseconds
    keep(tmp_path, "run/second.npz")
    time.sleep(0.02)
    keep(tmp_path, "run/third.npz")
    assert Kept(tmp_path, maximum_bytes=25).tidy() == 1
    assert names(tmp_path) == ["run", "run/second.npz", "run/third.npz"]
    assert Kept(tmp_path, maximum_files=1).tidy() == 1
    assert names(tmp_path) == ["run", "run/third.npz"]


def test_no_file_is_newer_than_now(tmp_path: Path) -> None:
    path = keep(tmp_path, "run/a.npz")
    os.utime(path, (2**33, 2**33))
    Kept(tmp_path).tidy()
    assert path.stat().st_mtime <= time.time()
