"""A backup sealed with a passphrase, by the real commands; age makes each try of a passphrase cost a second."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest

PASSPHRASE = "correct horse battery"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs `fleven-server` on one of several machines, by name."""

    def call(machine: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        if not (tmp_path / machine).exists():
            (tmp_path / machine / "etc").mkdir(parents=True)
            (tmp_path / machine / "etc" / "server.toml").write_text('[web]\naddress = "127.0.0.1:9999"\n')
        folders = {
            "FLEVEN_SERVER_STATE_DIR": str(tmp_path / machine / "state"),
            "FLEVEN_SERVER_CONFIG": str(tmp_path / machine / "etc" / "server.toml"),
        }
        command = [sys.executable, "-c", "from fleven.server.cli.main import main; main()", *arguments]
        return subprocess.run(command, env=os.environ | folders, text=True, capture_output=True, timeout=60)

    return call


def test_a_passphrase_opens_it_and_another_does_not(run: Run, tmp_path: Path) -> None:
    right, wrong, file = tmp_path / "right", tmp_path / "wrong", tmp_path / "fleet.backup"
    right.write_text(f"{PASSPHRASE}\n")
    wrong.write_text("correct horse batterz\n")
    added = run("old", "users", "add", "ana")
    assert added.returncode == 0, added.stdout + added.stderr
    made = run("old", "backup", str(file), "--passphrase-file", str(right))
    assert made.returncode == 0, made.stdout + made.stderr
    refused = run("new", "restore", str(file), "--passphrase-file", str(wrong), "--force")
    assert refused.returncode != 0
    assert "passphrase is wrong" in refused.stderr
    assert not (tmp_path / "new" / "state" / "register.db").exists()
    restored = run("new", "restore", str(file), "--passphrase-file", str(right), "--force")
    assert restored.returncode == 0, restored.stdout + restored.stderr
    assert "ana" in run("new", "users").stdout

    # By hand: `tar x`, `age -d identity.age > key`, `age -d -i key backup.tar.gz.age | tar tz`.
    with tarfile.open(file) as archive:
        key, sealed = (archive.extractfile(name).read() for name in archive.getnames())  # type: ignore[union-attr]
        assert archive.getnames() == ["identity.age", "backup.tar.gz.age"]
    identity = pyrage.x25519.Identity.from_str(pyrage.passphrase.decrypt(key, PASSPHRASE).decode().strip())
    with tarfile.open(fileobj=io.BytesIO(pyrage.decrypt(sealed, [identity]))) as content:
        assert any(name.endswith("register.db") for name in content.getnames())
