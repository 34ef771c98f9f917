"""The same app in the bundles of several runs, and nothing else, has the same identity."""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fleven_agent.warm import app_identity, apps_file
from fleven_agent.warm.app_identity import identity_of, noting
from fleven_agent.warm.apps_file import app_of

PROJECT = '[project]\nname = "a"\nversion = "{version}"\n'


def bundle(files: Mapping[str, str] | None = None, version: str = "1.0", info: str = "x") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(".info/CONTENT", info)
        archive.writestr("deflated", "x" * 1_000, zipfile.ZIP_DEFLATED)
        archive.writestr("pyproject.toml", PROJECT.format(version=version))
        for name, content in (files or {"a/app.py": "one"}).items():
            archive.writestr(name, content)
    return stream.getvalue()


DEFLATED = bundle().index(b"deflated") + len("deflated")
BROKEN = bundle()[:DEFLATED] + b"\xff" * 4 + bundle()[DEFLATED + 4 :]


def test_the_servers_mark_makes_no_difference() -> None:
    plain = identity_of(bundle())
    assert apps_file.IDENTITY.fullmatch(plain)
    for version in ("1.0+fleven.12.1.0123456789abcdef", "1.0+fleven.13.2.fedcba9876543210"):
        assert identity_of(bundle(version=version, info=version)) == plain
    own = identity_of(bundle(version="1.0+own"))
    assert own == identity_of(bundle(version="1.0+own.fleven.1.1.0123456789abcdef")) != plain


@pytest.mark.parametrize(
    "other",
    [
        bundle({"a/app.py": "two"}),
        bundle({"b/app.py": "one"}),
        bundle({"a/app.py": "one", "a/more.py": ""}),
        bundle({"a/app.p": "yone"}),
        bundle(version="1.1"),
        bundle(version="1.0+fleven.12.1.0123456789abcde"),
        bundle({"a/app.py": "one", "info/x": "y"}),
    ],
)
def test_whatever_else_differs_does(other: bytes) -> None:
    assert identity_of(other) != identity_of(bundle())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", bundle()[:-30], bundle().replace(b"one", b"two"), BROKEN])
def test_what_is_no_bundle_has_no_identity(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a bundle"):
        identity_of(content)


def test_a_bundle_that_unpacks_to_too_much_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_identity, "MAXIMUM_BYTES", 10)
    with pytest.raises(ValueError, match="too large"):
        identity_of(bundle())


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of the apps, which the environment names."""
    path = tmp_path / apps_file.FILE_NAME
    monkeypatch.setenv(apps_file.VARIABLE, str(path))
    return path


def run(bundle_hash: str) -> Any:
    return SimpleNamespace(fab_hash=bundle_hash)


def test_the_executor_learns_the_app_of_each_bundle(file: Path) -> None:
    read = noting(lambda content, run: (len(content), run.fab_hash), file)
    first, second, other = bundle(version="1.0+fleven.1.1.0123456789abcdef"), bundle(), bundle({"x.py": ""})
    assert read(first, run("1" * 64)) == (len(first), "1" * 64)
    read(second, run("2" * 64))
    read(other, run("3" * 64))
    assert app_of("1" * 64) == app_of("2" * 64) == identity_of(second)
    assert app_of("3" * 64) == identity_of(other)
    assert app_of("4" * 64) == "4" * 64


def test_a_bundle_that_cannot_be_read_is_left_to_flower(file: Path) -> None:
    read = noting(lambda content, run: "read", file)
    assert read(Path("a.fab"), run("1" * 64)) == "read"
    assert read(b"no bundle", run("1" * 64)) == "read"
    assert app_of("1" * 64) == "1" * 64


def test_only_the_newest_are_remembered(file: Path) -> None:
    read = noting(lambda content, run: None, file)
    for number in range(app_identity.MOST_APPS + 3):
        read(bundle(), run(f"{number:064x}"))
    assert len(json.loads(file.read_text())) == app_identity.MOST_APPS
    assert app_of(f"{0:064x}") == f"{0:064x}"


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"x": 1}', b'{"x": "../.."}', b"[" * 100_000])
def test_what_cannot_be_understood_says_nothing(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert app_of("x") == "x"


def test_without_a_file_each_run_is_an_app_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(apps_file.VARIABLE, raising=False)
    assert app_of("x") == "x"
