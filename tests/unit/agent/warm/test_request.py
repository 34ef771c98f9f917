"""What a launcher sends, and whether a fork can be that task."""

import ast
import contextlib
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven_agent.common.cell import asking, output, relay, stand_in
from fleven_agent.common.cell.request import RequestError, body_of, parse_request
from fleven_agent.warm import launcher
from fleven_agent.warm.programs import interpreter_of, is_python_program
from fleven_agent.warm.request import differing_variables
from fleven_agent.warm.settings import Fallback


def test_the_launchers_request_is_read_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["flwr-clientapp", "--token", "a b\nc", "", "ü"])
    monkeypatch.setenv("WITH_EQUALS", "a=b=c")
    monkeypatch.setenv("EMPTY", "")
    message = launcher.request("/usr/bin/flwr-clientapp", sys.argv[1:])
    assert int.from_bytes(message[:4], "big") == len(message) - 4
    request = parse_request(message[4:])
    assert request.program == "/usr/bin/flwr-clientapp"
    assert request.folder == str(tmp_path)
    assert request.arguments == ("--token", "a b\nc", "", "ü")
    assert request.environment == dict(os.environ)
    assert request.umask == os.umask(request.umask)
    assert set(request.processors) == os.sched_getaffinity(0)
    assert request.niceness == os.getpriority(os.PRIO_PROCESS, 0)
    assert len(request.limits) == 16
    assert parse_request(body_of(request)) == request


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused_in_one_way(body: bytes) -> None:
    with contextlib.suppress(RequestError):
        parse_request(body)


def test_a_request_cut_short_is_refused() -> None:
    body = launcher.request("/p", sys.argv[1:])[4:]
    head = b"\0".join(body.split(b"\0")[:9])
    with pytest.raises(RequestError):
        parse_request(head[: head.rfind(b"\0")] + b"\x003")


def test_variables_that_are_read_at_start_must_be_the_same() -> None:
    assert differing_variables({"OMP_NUM_THREADS": "4"}, {}, {}) == ["OMP_NUM_THREADS"]
    assert differing_variables({}, {"FLWR_HOME": "/a"}, {"FLWR_HOME": "/a"}) == ["FLWR_HOME"]
    assert differing_variables({"SHLVL": "2", "PATH": "/x"}, {"SHLVL": "1"}, {}) == []


def test_a_variable_that_an_import_has_set_since_differs_in_neither_state() -> None:
    start, now = {"PATH": "/bin"}, {"PATH": "/bin", "GRPC_VERBOSITY": "error"}
    assert differing_variables({}, start, now) == []
    assert differing_variables({"GRPC_VERBOSITY": "error"}, start, now) == []
    assert differing_variables({"GRPC_VERBOSITY": "debug"}, start, now) == ["GRPC_VERBOSITY"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("#!{prefix}/bin/python3\n", True),
        ("#!{prefix}/bin/python3.11 -I\n", True),
        ("#!/usr/bin/env python3\n", False),
        ("#!/bin/sh\n", False),
        ("#!/elsewhere/bin/python3\n", False),
        ("#!\n", False),
        ("\x7fELF", False),
    ],
)
def test_only_scripts_of_this_python_can_run_in_a_fork(tmp_path: Path, line: str, expected: bool) -> None:
    program = tmp_path / "flwr-clientapp"
    program.write_text(line.format(prefix=sys.prefix))
    assert is_python_program(str(program), sys.prefix) is expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("#!/a/python3\n", ("/a/python3", "")),
        ("#!/a/python3 -Iu\n", ("/a/python3", "-Iu")),
        ("#! /a/python3  -I -u\n", ("/a/python3", "-I -u")),
        ("print()\n", ("", "")),
    ],
)
def test_the_first_line_is_read_as_linux_reads_it(tmp_path: Path, line: str, expected: tuple[str, str]) -> None:
    (tmp_path / "program").write_text(line)
    assert interpreter_of(str(tmp_path / "program")) == expected


def test_a_missing_program_is_no_python_program(tmp_path: Path) -> None:
    assert not is_python_program(str(tmp_path / "none"), sys.prefix)


def test_the_launcher_only_gives_reasons_that_exist() -> None:
    """It cannot import the enum, since that would slow its start; so its texts are checked here."""
    tree = ast.parse(Path(launcher.__file__).read_text(encoding="utf-8"))
    given_reasons = {
        call.args[-1].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in ("ColdStartError", "start_cold")
        and isinstance(call.args[-1], ast.Constant)
    }
    assert {"absent", "timeout", "ended", "foreign", "error"} <= given_reasons
    assert given_reasons <= set(Fallback)


def test_the_launcher_imports_nothing_slow() -> None:
    """Each of these would cost more than the launcher's whole work."""
    names, froms = set(), set()
    for module in (launcher, asking, output, relay, stand_in):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        froms |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names <= {"_signal", "_socket", "errno", "os", "select", "sys", "time", "resource"}
    # collections.abc and typing under TYPE_CHECKING alone
    ours = {"fleven_agent.common.cell"} | {f"fleven_agent.common.cell.{name}" for name in ("asking", "output", "relay")}
    assert froms <= {"__future__", "collections.abc", "typing", *ours}


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("ended 0\n", 0),
        ("ended -9\n", -9),
        ("leaving 3\n", 3),
        ("leaving 3\nended 3\n", 3),
        ("leaving 0\nended -11\n", -11),
        ("", None),
        ("ended x\n", None),
    ],
)
def test_exit_status_as_told(text: str, status: int | None) -> None:
    assert launcher.status_of(text) == status


def test_a_token_in_a_descriptor_of_the_launcher_goes_with_the_request(tmp_path: Path) -> None:
    """The task has other descriptors, and Flower's own program would look for the launcher's in vain."""
    held = os.memfd_create("token")
    try:
        os.write(held, b"secret\n")
        arguments = ["--insecure", "--token-file", f"/proc/self/fd/{held}", "--parent-pid", "7"]
        assert asking.token_of(arguments) == ["--insecure", "--token", "secret", "--parent-pid", "7"]
        assert asking.token_of(arguments) == ["--insecure", "--token", "secret", "--parent-pid", "7"]  # read again
    finally:
        os.close(held)
    named = ["--token-file", str(tmp_path / "token")]
    assert asking.token_of(named) == named
    assert asking.token_of(["--token", "secret"]) == ["--token", "secret"]
