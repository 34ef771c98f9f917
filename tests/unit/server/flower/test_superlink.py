"""What keeps the server's daemons from starting: whose fault it is decides whether systemd tries again."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sqlite3
from collections import namedtuple
from pathlib import Path

import pytest

from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig
from fleven.server.errors import ConfigurationError, ServerError, TemporaryError, address_obstacle
from fleven.server.flower import superlink, superlink_database

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "state")


@pytest.mark.parametrize(
    ("number", "passing"),
    [
        (errno.EADDRNOTAVAIL, True),
        (errno.EADDRINUSE, True),
        (errno.EACCES, False),
    ],
)
def test_an_address_may_come_free_or_come_up_but_is_not_permitted_later(number: int, passing: bool) -> None:
    obstacle = address_obstacle("web.address", "100.64.0.1:9190", OSError(number, os.strerror(number)))
    assert obstacle.passing is passing
    assert obstacle.problem.startswith("web.address: 100.64.0.1:9190: ")


def test_a_full_disk_is_tried_again_and_an_unknown_flower_is_not(monkeypatch: pytest.MonkeyPatch, paths: Paths) -> None:
    monkeypatch.setattr(superlink, "address_obstacles", lambda _config: [])
    monkeypatch.setattr(superlink, "cell_obstacles", lambda _config: [])
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**9, 10**9, 10**6))
    with pytest.raises(TemporaryError) as full:
        superlink.preflight(ServerConfig(), paths)
    assert full.value.exit_code == 75
    monkeypatch.setattr(superlink.line, "installed_version", lambda: "1.99.0")
    with pytest.raises(ConfigurationError) as both:
        superlink.preflight(ServerConfig(), paths)
    assert both.value.exit_code == 78
    assert len(both.value.problems) == 2


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ("database or disk is full", TemporaryError),
        ("database is locked", TemporaryError),
        ("no such column: x", ConfigurationError),
    ],
)
def test_a_database_that_holds_runs_is_tried_again_only_when_it_is_not_its_fault(
    monkeypatch: pytest.MonkeyPatch, paths: Paths, problem: str, kind: type[ServerError]
) -> None:
    paths.state.mkdir()
    with sqlite3.connect(paths.superlink_database) as connection:
        connection.execute("CREATE TABLE run (id)")
        connection.execute("INSERT INTO run VALUES (1)")
    connection.close()
    before = paths.superlink_database.read_bytes()
    monkeypatch.setattr(superlink_database, "newest_revisions", lambda: frozenset({"newest"}))
    monkeypatch.setattr(superlink_database, "migrate", lambda _file: problem)
    with pytest.raises(kind, match="cannot be used") as caught:
        superlink_database.bring_up_to_date(paths)
    assert problem in caught.value.problems[0]
    assert paths.superlink_database.read_bytes() == before


def test_without_a_cell_it_starts_only_where_that_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEVEN_APP_CELL_SOCKET", str(tmp_path / "cell.sock"))
    required = ServerConfig()
    (obstacle,) = superlink.cell_obstacles(required)
    assert obstacle.passing
    assert str(tmp_path / "cell.sock") in obstacle.problem
    off = ServerConfig.model_validate({"superlink": {"server-app-cell": "off"}})
    assert superlink.cell_obstacles(off) == []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "cell.sock"))
        assert superlink.cell_obstacles(required) == []
