"""`fleven-server superlink` as a process: what it execs, and each reason not to: 78, or 75 for what may pass."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
FAKE = """#!/bin/sh
printf '%s\\n' "$PWD" "$FLWR_HOME" "$FLWR_TELEMETRY_ENABLED" "$@"
"""


@pytest.fixture
def command(tmp_path: Path, free_port: Callable[[], int]) -> Callable[..., subprocess.CompletedProcess[str]]:
    config = tmp_path / "server.toml"
    ports = [free_port() for _ in range(3)]
    config.write_text(
        "insecure = true\n"
        f'[superlink]\nserver-app-cell = "off"\nfleet-address = "127.0.0.1:{ports[0]}"\n'
        f'control-address = "127.0.0.1:{ports[1]}"\n'
        f'serverappio-address = "127.0.0.1:{ports[2]}"\n'
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "FLEVEN_SERVER_STATE_DIR": str(tmp_path / "state"),
            "FLEVEN_SERVER_CONFIG": str(config),
        }
        return subprocess.run(
            [str(BIN / "fleven-server"), "superlink", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_it_becomes_flower_superlink_in_the_state_folder(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    # The fake stands beside the interpreter's own programs, where the command looks first.
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("python", "fleven-server"):
        (folder / name).symlink_to(BIN / name)
    done = command("--dry-run")
    assert done.returncode == 0
    assert done.stdout.startswith("flower-superlink --insecure --fleet-api-address 127.0.0.1:")
    assert not (tmp_path / "state" / "superlink.json").exists()
    program = folder / "flower-superlink"
    program.write_text(FAKE)
    program.chmod(0o755)
    code = (
        f"import sys; sys.executable = {str(folder / 'python')!r}; sys.argv[1:] = ['superlink']; "
        "from fleven.server.cli.main import main; main()"
    )
    environment = {
        **os.environ,
        "FLEVEN_SERVER_STATE_DIR": str(tmp_path / "state"),
        "FLEVEN_SERVER_CONFIG": str(tmp_path / "server.toml"),
    }
    started = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    lines = started.stdout.splitlines()
    state = tmp_path / "state"
    assert lines[:3] == [str(state), str(state / "flwr"), "0"], started.stderr
    assert lines[lines.index("--database") + 1] == str(state / "superlink.db")
    assert "--disable-runtime-dependency-installation" in lines
    assert "[superlink.fleven-deployment]" in (state / "flwr" / "config.toml").read_text()
    assert json.loads((state / "superlink.json").read_text())["pid"] > 0


def test_each_port_in_use_is_named(tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    text = (tmp_path / "server.toml").read_text()
    ports = [int(line.rsplit(":", 1)[1].rstrip('"')) for line in text.splitlines() if ":" in line]
    with socket.socket() as first, socket.socket() as second:
        for listener, port in ((first, ports[0]), (second, ports[1])):
            listener.bind(("127.0.0.1", port))
            listener.listen()
        done = command()
    # Whoever holds a port may let it go: systemd is to try again.
    assert done.returncode == 75
    lines = done.stderr.splitlines()
    assert lines[0] == "fleven-server: the SuperLink cannot start"
    assert lines[1].startswith(
        f"superlink.fleet-address: 127.0.0.1:{ports[0]}: address already in use (see who listens"
    )
    assert lines[2].startswith(f"superlink.control-address: 127.0.0.1:{ports[1]}: address already in use")
    assert len(lines) == 3


def test_an_address_that_is_not_up_yet_is_tried_again_unless_something_else_is_wrong(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    config = tmp_path / "server.toml"
    # An address of the VPN before the VPN is up; this block is for documentation only (RFC 5737).
    config.write_text(config.read_text().replace('fleet-address = "127.0.0.1', 'fleet-address = "192.0.2.1'))
    done = command()
    assert done.returncode == 75
    assert "superlink.fleet-address: 192.0.2.1:" in done.stderr
    (tmp_path / "state" / "superlink.db").write_bytes(b"this is no database at all, but long enough to look")
    both = command()
    assert both.returncode == 78
    assert "192.0.2.1" in both.stderr
    assert "is not a readable database" in both.stderr


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"this is no database at all, but long enough to look", "is not a readable database"),
        ("unknown-revision", "newer Flower"),
    ],
)
def test_a_database_that_flower_cannot_open_is_named(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]], content: bytes | str, word: str
) -> None:
    file = tmp_path / "state" / "superlink.db"
    file.parent.mkdir()
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
            connection.execute("INSERT INTO alembic_version VALUES (?)", (content,))
            connection.commit()
    done = command()
    assert done.returncode == 78
    assert word in done.stderr
    assert str(file) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_configuration_is_one_line_each(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "server.toml").write_text('colour = 1\n[web]\naddress = "x"\n')
    done = command()
    assert done.returncode == 78
    assert {line.split(": ")[1] for line in done.stderr.splitlines()[1:]} == {"colour", "web.address"}
