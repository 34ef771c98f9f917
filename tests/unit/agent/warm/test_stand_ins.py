"""Stand-ins: Flower is imported without what it does not use, and gets it if it uses it after all."""

import dataclasses
import importlib
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleven_agent.warm import stand_ins
from fleven_agent.warm.flower_internals import LINES
from fleven_agent.warm.stand_ins import standing_in

BIG = """
import string as words
loaded = True
class Answer: pass
class BigError(Exception): pass
def make(*arguments): return ("made", *arguments)
"""
USER = """
import big_library
from big_library import make
from big_library import words
def read() -> big_library.Answer | None: return None
def use(): return make(1, 2)
def fail():
    try: raise big_library.BigError("x")
    except big_library.BigError as error: return type(error)
"""


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A release of Flower whose one module takes three names of a big library."""
    (tmp_path / "big_library.py").write_text(BIG)
    (tmp_path / "user_of_it.py").write_text(USER)
    monkeypatch.syspath_prepend(tmp_path)
    flower = dataclasses.replace(
        LINES[0], stand_in_releases=frozenset({"1.2.3"}), stand_ins={"big_library": ("Answer", "make", "words=string")}
    )
    monkeypatch.setattr(stand_ins, "installed_internals", lambda: flower)
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "1.2.3")
    yield "1.2.3"
    for name in ("big_library", "user_of_it"):
        sys.modules.pop(name, None)


def test_what_is_only_named_is_not_imported(release: str) -> None:
    with standing_in():
        user = importlib.import_module("user_of_it")
    assert user.read() is None
    assert user.words is importlib.import_module("string")
    assert "big_library" not in sys.modules


def test_what_is_used_after_all_is_the_real_thing(release: str) -> None:
    with standing_in():
        user = importlib.import_module("user_of_it")
    assert user.use() == ("made", 1, 2)
    real = sys.modules["big_library"]
    assert real.loaded
    assert user.fail() is real.BigError


def test_everybody_else_gets_the_real_module(release: str) -> None:
    with standing_in():
        user = importlib.import_module("user_of_it")
    real = importlib.import_module("big_library")
    assert real.loaded
    assert user.big_library is not real
    assert user.big_library.BigError is real.BigError
    assert isinstance(real.Answer(), real.Answer)


def test_a_use_while_flower_is_imported_says_so(release: str, tmp_path: Path) -> None:
    (tmp_path / "hasty.py").write_text("import big_library\nbig_library.BigError\n")
    with pytest.raises(ImportError, match="big_library is used while Flower is imported"), standing_in():
        importlib.import_module("hasty")
    assert "big_library" not in sys.modules


def test_a_release_that_nobody_has_looked_at_is_imported_as_ever(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "1.2.4")
    with standing_in():
        importlib.import_module("user_of_it")
    assert sys.modules["big_library"].loaded


def test_a_module_that_is_loaded_already_stays(release: str) -> None:
    real = importlib.import_module("big_library")
    with standing_in():
        assert importlib.import_module("user_of_it").big_library is real
    assert sys.modules["big_library"] is real
