"""A disk whose calls never return: a file system in user space that nobody answers, so that all wait in the kernel."""

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_harness import Agent

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK), reason="needs the right to mount"
)
MNT_DETACH = 2


class HangingDisk:
    """A mount that answers nothing, over a folder that does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._library = ctypes.CDLL(None, use_errno=True)
        self._device: int | None = None

    def hang(self) -> None:
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0".encode()
        if self._library.mount(b"hanging", os.fsencode(self.folder), b"fuse", 0, options):
            pytest.skip(f"cannot mount: {os.strerror(ctypes.get_errno())}")

    def recover(self) -> None:
        if self._device is not None:
            self._library.umount2(os.fsencode(self.folder), MNT_DETACH)
            os.close(self._device)
            self._device = None


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[HangingDisk]:
    made = HangingDisk(tmp_path / "trips")
    yield made
    made.recover()


def test_a_disk_that_hangs_is_known_holds_up_nothing_and_is_forgotten_when_it_answers(
    make_agent: Callable[..., Agent], disk: HangingDisk
) -> None:
    (disk.folder / "a.csv").write_text("time_sec,vehicle_speed\n" + "0,1\n" * 30, encoding="utf-8")
    agent = make_agent(f'data-path = "{disk.folder}"\n[data]\nsettle-seconds = 0\n').start()
    agent.wait("the trips", lambda: ((agent.status() or {}).get("data") or {}).get("trips") == 1)
    disk.hang()
    status = agent.wait_condition("data-stuck", 40)
    [condition] = [one for one in status["conditions"] if one["code"] == "data-stuck"]
    assert condition["severity"] == "error"
    assert str(disk.folder) in condition["message"]

    checked = agent.run("check", "--config", str(agent.config), "--only", "data", "--timeout-seconds", "1")
    assert "does not answer" in checked.stdout

    began = time.monotonic()
    agent.stop()
    agent.start()  # on a disk that hangs from the beginning
    assert time.monotonic() - began < 15
    agent.wait_state("running")
    agent.wait_condition("data-stuck", 40)

    disk.recover()
    agent.wait_condition("data-stuck", 40, gone=True)
    agent.wait("the trips again", lambda: ((agent.status() or {}).get("data") or {}).get("trips") == 1)
