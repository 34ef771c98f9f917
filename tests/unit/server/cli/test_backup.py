"""`fleven-server backup` and `restore`: whom it asks, what it refuses, and what it says is to be done."""

from datetime import UTC, datetime
from pathlib import Path

import pyrage
import pytest
from typer.testing import CliRunner

from fleven.server.backup.contents import Manifest, Member
from fleven.server.backup.restoring import Restored
from fleven.server.cli import backup
from fleven.server.cli.main import app
from fleven.server.errors import ServerError, UsageError

KEY = pyrage.x25519.Identity.generate()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEVEN_SERVER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("FLEVEN_SERVER_CONFIG", str(tmp_path / "server.toml"))
    (tmp_path / "server.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["trust", "renew"]).exit_code == 0
    return tmp_path


def refusal(*arguments: str) -> ServerError:
    done = CliRunner().invoke(app, list(arguments))
    assert isinstance(done.exception, ServerError), done.output
    return done.exception


def test_without_a_word_nothing_is_written(server: Path) -> None:
    """Nobody is at the terminal, and no passphrase was given: keys are not written in the clear for want of one."""
    assert refusal("backup").code == "passphrase-missing"
    (server / "short").write_text("short\n")
    assert refusal("backup", "--passphrase-file", "short").code == "passphrase-short"
    (server / "empty").touch()
    assert refusal("backup", "--passphrase-file", "empty").code == "passphrase-missing"
    assert refusal("backup", "--recipient", "ana@example.org").code == "recipient-invalid"
    assert refusal("backup", "--recipient", str(KEY.to_public()), "--without-keys").exit_code == 2
    assert [path.name for path in server.iterdir() if path.suffix in (".age", ".backup", ".gz")] == []


def test_a_backup_goes_out_and_comes_back(server: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["backup", "--recipient", str(KEY.to_public())])
    assert done.exit_code == 0, (done.output, done.exception)
    (file,) = server.glob("fleven-*.age")
    (server / "key.txt").write_text(str(KEY))
    assert refusal("backup", str(file), "--recipient", str(KEY.to_public())).code == "file-exists"
    assert refusal("restore", str(file), "--identity", "key.txt").code == "server-not-empty"
    assert "backup-made" in runner.invoke(app, ["users", "log"]).stdout
    assert file.name in runner.invoke(app, ["check", "--only", "register.backup", "--json"]).stdout
    done = runner.invoke(app, ["restore", str(file), "--identity", "key.txt", "--force"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "what was here before:" in done.stdout
    assert "backup-restored" in runner.invoke(app, ["users", "log"]).stdout


def test_a_unit_gives_the_passphrase_as_its_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "backup-passphrase").write_text("correct horse battery\nsecond line")
    assert backup.asked_passphrase(None, twice=True) == "correct horse battery"
    (tmp_path / "backup-passphrase").write_bytes(bytes(200_000))
    with pytest.raises(UsageError, match="too large"):
        backup.asked_passphrase(None, twice=True)


def restored(*, reached_at: list[str], with_keys: bool = True) -> Restored:
    manifest = Manifest(
        schema_version=1,
        created_at=datetime(2026, 11, 28, 7, 0, tzinfo=UTC),
        fleven_version="0.2.0",
        flower_version="1.34.0",
        host="pc",
        with_keys=with_keys,
        fingerprint=None,
        reached_at=reached_at,
        fleet_port=9092,
        web_port=9190,
        cars=3,
        left_out=[],
        members=[Member(name="register.db", size=1, sha256="0" * 64)],
    )
    return Restored(manifest, (), None, ())


def test_cars_that_find_the_new_machine_need_nothing() -> None:
    steps = " ".join(
        backup.next_steps(restored(reached_at=["fleet.example.org"]), [], ["fleet.example.org", "192.0.2.7"])
    )
    assert "node.toml" not in steps
    assert "join again (" not in steps
    assert "revoke again" in steps


def test_who_knows_only_the_old_address_is_named_with_what_to_do() -> None:
    steps = " ".join(backup.next_steps(restored(reached_at=["192.0.2.5"]), [], ["192.0.2.7"]))
    assert "cars that know only 192.0.2.5" in steps
    assert 'superlink = "192.0.2.7:9092"' in steps
    assert 'report-url = "https://192.0.2.7:9190"' in steps


def test_without_keys_cars_join_again() -> None:
    assert "must join again" in " ".join(backup.next_steps(restored(reached_at=[], with_keys=False), [], []))
    assert "must join again" in " ".join(backup.next_steps(Restored(None, (), None, ()), ["a.toml: x"], []))
