"""Whether the SuperLink's bundle is the app that was submitted: real bundles, a database of Flower's form."""

from __future__ import annotations

import hashlib
import io
import sqlite3
import zipfile
from pathlib import Path

import pytest

from fleven.server.flower.run_app import bundle_of, difference, signed

RUN = str(2**64 - 5)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Return the folder of an app that was submitted."""
    folder = tmp_path / "app"
    (folder / "tiny").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("x = 1")
    (folder / "tiny" / "app.py").write_text("pass")
    (folder / "notes.txt").write_text("not in the bundle")
    return folder


def bundle(files: dict[str, str]) -> tuple[str, bytes]:
    """Return hash and content of a bundle."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return hashlib.sha256(target.getvalue()).hexdigest(), target.getvalue()


OWN = {"pyproject.toml": "x = 1", "tiny/app.py": "pass", ".info/CONTENT": "of Flower's own"}


def test_a_bundle_of_the_submitted_files_is_the_app(app: Path) -> None:
    assert difference(*bundle(OWN), app) == ""


@pytest.mark.parametrize(
    "changed", [{"tiny/app.py": "evil"}, {"tiny/app.py": "xxxx"}, {"tiny/more.py": "pass"}, {"../outside": ""}]
)
def test_a_bundle_with_another_file_is_not(app: Path, changed: dict[str, str]) -> None:
    (app.parent / "outside").touch()
    assert difference(*bundle({**OWN, **changed}), app)


def test_a_bundle_of_another_hash_or_none_is_not(app: Path) -> None:
    app_hash, content = bundle(OWN)
    assert "a different hash" in difference("0" * 64, content, app)
    broken = content[:-30]
    assert "cannot be read" in difference(hashlib.sha256(broken).hexdigest(), broken, app)
    assert app_hash


def test_hash_and_content_are_read_from_the_database_and_one_of_another_form_says_nothing(tmp_path: Path) -> None:
    database = tmp_path / "superlink.db"
    assert bundle_of(database, RUN) is None
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE other (x)")
    assert bundle_of(database, RUN) is None
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE run (run_id BIGINT, fab_hash VARCHAR)")
        connection.execute("CREATE TABLE fab (fab_hash VARCHAR, content BLOB)")
        connection.execute("INSERT INTO run VALUES (?, 'abc')", (signed(RUN),))
        connection.execute("INSERT INTO fab VALUES ('abc', x'0102')")
    connection.close()
    assert signed(RUN) == -5
    assert bundle_of(database, RUN) == ("abc", b"\x01\x02")
    assert bundle_of(database, "7") is None
