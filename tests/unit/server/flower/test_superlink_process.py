"""Which calls to the Fleet API are read: known keys, calls under way, and a Flower whose insides are others."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path

import pytest

from fleven.server.flower import superlink, superlink_process
from fleven.server.flower.line import installed_line
from fleven.server.flower.superlink_process import (
    KNOWN_SECONDS,
    MAXIMUM_CALLS_PER_KEY,
    MAXIMUM_MESSAGE_BYTES,
    Keys,
)

REAL = installed_line().superlink_insides


class Database:
    """Registered keys; counts how often it is asked."""

    def __init__(self, *keys: bytes) -> None:
        self.keys, self.asked = set(keys), 0

    def __call__(self, key: bytes) -> bool:
        self.asked += 1
        return key in self.keys


def test_a_registered_key_is_asked_for_once_in_a_while_and_an_unknown_one_each_time() -> None:
    database, now = Database(b"known"), [100.0]
    keys = Keys(database, lambda: now[0])
    assert [keys.knows(b"known") for _ in range(5)] == [True] * 5
    assert database.asked == 1
    assert not keys.knows(b"other")
    database.keys.add(b"other")
    assert keys.knows(b"other"), "a car that was accepted just now does not wait"
    database.keys.clear()
    now[0] += KNOWN_SECONDS
    assert not keys.knows(b"known")
    assert not keys.knows(b"known")


def test_a_key_has_so_many_calls_at_a_time_and_takes_none_from_others() -> None:
    keys = Keys(Database())
    assert all(keys.begin(b"greedy") for _ in range(MAXIMUM_CALLS_PER_KEY))
    assert not keys.begin(b"greedy")
    assert keys.begin(b"other")
    keys.end(b"greedy")
    assert keys.begin(b"greedy")
    assert not keys.begin(b"greedy")


@dataclasses.dataclass
class Configuration:
    """The part of Flower's that is changed."""

    superexec_auth_secret: bytes | None = None


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> tuple[types.ModuleType, types.ModuleType]:
    """Stand in for the two modules of Flower that are changed."""
    transport, program = types.ModuleType("fake_transport"), types.ModuleType("fake_program")
    transport.GRPC_MAX_MESSAGE_LENGTH = 2_147_483_647  # type: ignore[attr-defined]
    program.NodeAuthServerInterceptor = object  # type: ignore[attr-defined]
    program._parse_superlink_lifespan_config = Configuration  # type: ignore[attr-defined]
    program._get_superexec_command = lambda: ["flower-superexec"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_transport", transport)
    monkeypatch.setitem(sys.modules, "fake_program", program)
    fake = dataclasses.replace(REAL, transport_module="fake_transport", program_module="fake_program")
    line = type(installed_line())()
    monkeypatch.setattr(type(line), "superlink_insides", fake)
    monkeypatch.setattr(superlink_process, "installed_line", lambda: line)
    return transport, program


def test_messages_are_bounded_and_keys_looked_at_only_where_they_must_be_registered(
    flower: tuple[types.ModuleType, types.ModuleType], tmp_path: Path
) -> None:
    transport, program = flower
    superlink_process.bound(["--insecure"], tmp_path / "secret")
    assert transport.GRPC_MAX_MESSAGE_LENGTH == MAXIMUM_MESSAGE_BYTES
    assert program.NodeAuthServerInterceptor is object
    superlink_process.bound([REAL.authentication_option], tmp_path / "secret")
    assert program.NodeAuthServerInterceptor.__name__ == "BoundedAuthentication"


def test_the_database_that_is_named_is_read(tmp_path: Path) -> None:
    assert superlink_process.reads_of(["--insecure", REAL.database_option]) is None
    assert superlink_process.reads_of([REAL.database_option, str(tmp_path / "superlink.db"), "--insecure"]) is not None


def test_only_the_executor_of_this_start_may_ask_for_tasks(
    flower: tuple[types.ModuleType, types.ModuleType], tmp_path: Path
) -> None:
    _, program = flower
    secret = tmp_path / "secret"
    superlink_process.bound(["--insecure"], secret)
    first = secret.read_bytes()
    assert len(first) == 64
    assert secret.stat().st_mode & 0o777 == 0o600
    assert program._parse_superlink_lifespan_config().superexec_auth_secret == first
    assert program._get_superexec_command() == ["flower-superexec", REAL.executor_secret_option, str(secret)]
    superlink_process.bound(["--insecure"], secret)
    assert secret.read_bytes() != first


def test_a_flower_with_other_insides_is_left_as_it_is(
    flower: tuple[types.ModuleType, types.ModuleType], tmp_path: Path
) -> None:
    transport, program = flower
    del program.NodeAuthServerInterceptor
    with pytest.raises(AttributeError):
        superlink_process.bound([REAL.authentication_option], tmp_path / "secret")
    assert transport.GRPC_MAX_MESSAGE_LENGTH == 2_147_483_647


def test_only_a_script_of_this_python_is_run_with_bounds(tmp_path: Path) -> None:
    program = tmp_path / "flower-superlink"
    assert not superlink.is_python_program(str(program))
    program.write_text(f"#!{sys.executable} -Iu\nprint()\n")
    assert superlink.is_python_program(str(program))
    program.write_text("#!/bin/sh\necho\n")
    assert not superlink.is_python_program(str(program))
    program.write_bytes(b"\x7fELF\x02\x01\x01\x00\n")
    assert not superlink.is_python_program(str(program))
