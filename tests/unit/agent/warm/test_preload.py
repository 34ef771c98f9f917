"""What may be loaded before a task, what is remembered, and what is left out."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fleven_agent.warm import memory, preload
from fleven_agent.warm.flower_internals import installed_internals
from fleven_agent.warm.module_record import ModuleRecord
from fleven_agent.warm.preload import Preloader, _says_only


@pytest.fixture
def record(tmp_path: Path) -> ModuleRecord:
    return ModuleRecord(tmp_path / "modules.json")


def test_new_modules_come_first_and_none_twice(record: ModuleRecord) -> None:
    record.add(["a", "b"])
    record.add(["c", "a"])
    assert record.read() == (["c", "a", "b"], {})
    assert record.path.stat().st_mode & 0o777 == 0o600


def test_what_is_left_out_is_not_learnt_again(record: ModuleRecord) -> None:
    record.write(["a"], {"threads": "keeps a thread"})
    record.add(["threads", "b"])
    assert record.read() == (["b", "a"], {"threads": "keeps a thread"})


@pytest.mark.parametrize("content", ["", "[]", "null", '{"schema_version": 2}', '{"schema_version": 1, "python": "x"}'])
def test_a_broken_or_foreign_record_is_empty(record: ModuleRecord, content: str) -> None:
    record.path.write_text(content)
    assert record.read() == ([], {})


def test_a_record_of_another_python_is_empty(record: ModuleRecord) -> None:
    record.write(["a"], {})
    content = json.loads(record.path.read_text())
    record.path.write_text(json.dumps(content | {"python": "3.99"}))
    assert record.read() == ([], {})


def test_installed_and_built_in_modules_may_be_shared_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_an_app.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    import of_an_app  # type: ignore[import-not-found]

    made_by_hand = ModuleType("made_by_hand")
    monkeypatch.setitem(sys.modules, "made_by_hand", made_by_hand)
    names = ["json", "sys", "pytest", of_an_app.__name__, "made_by_hand", "fleven_agent.warm", "gone"]
    assert preload.shareable_modules(names) == ["json", "sys", "pytest"]
    sys.modules.pop("of_an_app")


def test_modules_under_flwr_home_belong_to_an_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "home" / "apps" / "lainf.x.1.0.0.abcdef01"
    folder.mkdir(parents=True)
    (folder / "app_code.py").write_text("")
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(str(folder))
    import app_code  # type: ignore[import-not-found]  # noqa: F401

    assert preload.app_modules(["json", "app_code"]) == ["app_code"]
    sys.modules.pop("app_code")


def test_an_app_is_never_preloaded() -> None:
    preloader = Preloader(1 << 40)
    assert preloader.missing(["fleven", "fleven.app.model", "wave", "json"], []) == ["wave"]


def test_a_package_that_was_left_out_is_left_out_whole() -> None:
    preloader = Preloader(1 << 40)
    assert preloader.missing(["bad.inner", "bad", "good"], ["bad.other"]) == ["good"]


def test_what_cannot_be_imported_is_tried_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "breaks_at_import.py").write_text("raise RuntimeError('no')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(preload, "check_after", lambda name, new: None)
    preloader = Preloader(1 << 40)
    assert preloader.load(preloader.missing(["breaks_at_import"], []))
    assert preloader.missing(["breaks_at_import"], []) == []


def test_a_full_process_imports_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preload, "holds_more_than", lambda maximum_bytes: maximum_bytes < 300)
    imported: list[str] = []
    monkeypatch.setattr(preload, "_import", imported.append)
    assert Preloader(299).load(["sunau_is_not_there"])
    assert imported == []


def test_importing_stops_for_a_waiting_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr(preload, "_import", imported.append)
    preloader = Preloader(1 << 40)
    assert not preloader.load(["one_missing", "two_missing"], stop=lambda: len(imported) == 1)
    assert imported == ["one_missing"]
    assert preloader.missing(["one_missing", "two_missing"], []) == ["two_missing"]


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ('"""Doc."""\nfrom .flower_supernode import flower_supernode\nfrom .flwr_clientapp import flwr_clientapp\n'
         '__all__ = ["flower_supernode", "flwr_clientapp"]\n', True),
        ('from .flower_supernode import flower_supernode\nfrom .flwr_clientapp import flwr_clientapp\n'
         'from .more import more\n__all__ = ["flower_supernode", "flwr_clientapp"]\n', False),
        ("", False),
    ],
)  # fmt: skip
def test_flowers_command_line_is_slimmed_only_when_it_is_known(source: str, known: bool) -> None:
    assert _says_only(source, installed_internals().cli_source) is known


def test_memory_is_held_against_a_limit_in_bytes() -> None:
    assert memory.holds_more_than(1 << 20)
    assert not memory.holds_more_than(1 << 50)
