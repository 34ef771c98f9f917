"""Fixtures that all tests share."""

import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# How long one example takes says how busy the machine is, nothing about the code.
settings.register_profile("fleven", deadline=None)
settings.load_profile("fleven")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Import all tests without collecting garbage: next to nothing of it is any, and all of it was looked through."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root folder of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def obd_data() -> Path:
    """Folder with real OBD logs (19drivers.csv), named by FLEVEN_OBD_DATA."""
    folder = os.environ.get("FLEVEN_OBD_DATA", "")
    if not folder:
        pytest.skip("no real OBD data: set FLEVEN_OBD_DATA to the folder that holds 19drivers.csv")
    return Path(folder)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Return a function that names a TCP port of 127.0.0.1 which nobody listens on, a new one at each call."""
    taken: set[int] = set()

    def find() -> int:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if port not in taken:
                taken.add(port)
                return port

    return find


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_heard() -> Iterator[None]:
    """A shell's background job ignores these signals, and so would every process that tests start and interrupt."""
    old_interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    old_quit = signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, old_interrupt)
    signal.signal(signal.SIGQUIT, old_quit)
