"""The car's models on disk: switched by a rename, whole or not there, and nothing piles up."""

import hashlib
from pathlib import Path

import pytest

from fleven_agent.models.shelf import CURRENT, PREVIOUS, Error, Notes, Shelf


def put(shelf: Shelf, content: bytes, parts: int = 2) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    size = -(-len(content) // parts)
    for start in range(0, len(content), size):
        have = shelf.append(sha256, content[start : start + size])
    assert have == shelf.fetched_bytes(sha256) == len(content)
    assert shelf.complete(sha256)
    return sha256


def test_models_take_each_others_place_and_no_third_is_kept(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    first, second, third = (put(shelf, name) for name in (b"first", b"second", b"third"))
    assert shelf.linked(CURRENT) == shelf.linked(PREVIOUS) == ""
    shelf.switch(first, "night@1", 1.0)
    assert (shelf.linked(CURRENT), shelf.linked(PREVIOUS)) == (first, "")
    again = put(shelf, b"second")
    assert again == second
    shelf.switch(second, "night@2", 2.0)
    assert (shelf.linked(CURRENT), shelf.linked(PREVIOUS)) == (second, first)
    put(shelf, b"third")
    shelf.switch(third, "night@3", 3.0)
    assert (shelf.linked(CURRENT), shelf.linked(PREVIOUS)) == (third, second)
    assert not shelf.file(first).exists()
    assert Shelf(tmp_path).notes.names == {second: ("night@2", 2.0), third: ("night@3", 3.0)}
    assert (tmp_path / "models" / "current").read_bytes() == b"third"
    assert Shelf(tmp_path).linked(CURRENT) == third


def test_what_was_fetched_and_is_something_else_is_dropped(tmp_path: Path) -> None:
    shelf, wanted = Shelf(tmp_path), hashlib.sha256(b"right").hexdigest()
    shelf.append(wanted, b"wrong")
    assert not shelf.complete(wanted)
    assert (shelf.fetched_bytes(wanted), shelf.file(wanted).exists()) == (0, False)


def test_a_damaged_file_is_noticed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    sha256 = put(shelf, b"model")
    assert shelf.whole(sha256)
    shelf.file(sha256).write_bytes(b"modem")
    assert not shelf.whole(sha256)
    assert not shelf.whole("0" * 64)


def test_it_goes_back_to_the_model_before_and_remembers_which_failed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    first = put(shelf, b"first")
    shelf.switch(first, "night@1", 1.0)
    second = put(shelf, b"second")
    shelf.switch(second, "night@2", 2.0)
    shelf.note(errors=(Error(1.0, 2.0, 3),))
    assert shelf.go_back("no finite number") == first
    assert (shelf.linked(CURRENT), shelf.linked(PREVIOUS)) == (first, "")
    assert not shelf.file(second).exists()
    kept = Shelf(tmp_path).notes
    assert (kept.refused, kept.refused_because, kept.errors) == (second, "no finite number", ())
    assert shelf.go_back("again") == ""
    assert shelf.linked(CURRENT) == ""


def test_a_link_to_something_else_is_no_model(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    first = put(shelf, b"first")
    shelf.switch(first, "night@1", 1.0)
    link = tmp_path / "models" / "current"
    link.unlink()
    link.symlink_to("/etc/passwd")
    assert shelf.linked(CURRENT) == ""
    link.unlink()
    link.symlink_to(f"{'0' * 64}.safetensors")
    assert shelf.linked(CURRENT) == ""


def test_what_is_being_fetched_stays_and_old_parts_go(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for name in ("a", "b"):
        shelf.append(name * 64, b"part")
    shelf.clean(keep="a" * 64)
    assert [shelf.fetched_bytes(name * 64) for name in ("a", "b")] == [4, 0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1}', b'{"names": {"a": 1}}'])
def test_damaged_notes_are_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "notes.json").write_bytes(content)
    assert Shelf(tmp_path).notes == Notes()


def test_notes_are_for_the_agent_alone(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.switch(put(shelf, b"first"), "night@1", 1.0)
    assert (tmp_path / "models" / "notes.json").stat().st_mode & 0o777 == 0o600
