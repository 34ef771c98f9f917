"""Reports on disk: in order, each once, bounded, and no damage costs more than the damaged report."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleven_agent.reporting import spool as module
from fleven_agent.reporting.spool import Spool, compress, decompress

SENDER = "ab12"


def report(sequence: int, sender: str = SENDER, padding: int = 0) -> dict[str, Any]:
    return {"sender_id": sender, "sequence": sequence, "padding": [n * 7919 % 1009 for n in range(padding)]}


def open_spool(folder: Path, *, sender: str = SENDER, reports: int = 100, size: int = 1_000_000) -> Spool:
    return Spool(folder, sender, maximum_reports=reports, maximum_bytes=size)


def sequences(spool: Spool) -> list[int]:
    return [one["sequence"] for one in spool.oldest(1_000)]


def test_reports_come_back_in_order_after_a_restart(tmp_path: Path) -> None:
    first = open_spool(tmp_path)
    for number in (1, 2, 10, 9):
        assert first.add(report(number))
    assert sequences(open_spool(tmp_path)) == [1, 2, 9, 10]


def test_an_acknowledgement_forgets_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    for number in range(1, 6):
        spool.add(report(number))
    assert spool.acknowledge({("other", 1)}) == 0
    assert spool.acknowledge({(SENDER, 1), (SENDER, 3), (SENDER, 99)}) == 2
    assert sequences(open_spool(tmp_path)) == [2, 4, 5]
    assert spool.take_lost() == 0


def test_reports_of_a_sender_whose_state_was_lost_go_first(tmp_path: Path) -> None:
    open_spool(tmp_path, sender="0ld").add(report(77, "0ld"))
    before = open_spool(tmp_path, sender="01d")
    before.add(report(70, "01d"))
    spool = open_spool(tmp_path)
    spool.add(report(1))
    assert [one["sender_id"] for one in spool.oldest(9)] == ["01d", SENDER]
    assert spool.highest_sequence() == 1


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, reports=3)
    for number in range(1, 6):
        assert spool.add(report(number))
    assert (sequences(spool), spool.take_lost(), spool.take_lost()) == ([3, 4, 5], 2, 0)


def test_the_oldest_go_when_they_are_too_large(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, size=5_000)
    for number in range(1, 20):
        assert spool.add(report(number, padding=500))
    kept = sequences(spool)
    assert kept[-1] == 19
    assert 0 < len(kept) < 10
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 5_000


@pytest.mark.parametrize(("short_of_bytes", "kept"), [(0, [1, 2]), (1, [2])])
def test_what_just_fits_is_kept(tmp_path: Path, short_of_bytes: int, kept: list[int]) -> None:
    needed = sum(len(compress(json.dumps(report(number), separators=(",", ":")).encode())) for number in (1, 2))
    spool = open_spool(tmp_path, size=needed - short_of_bytes)
    assert spool.add(report(1))
    assert spool.add(report(2))
    assert sequences(spool) == kept


def test_the_folder_is_made_when_it_is_needed_and_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "spool"
    spool = open_spool(folder)
    assert (len(spool), spool.highest_sequence(), spool.oldest(1)) == (0, 0, [])
    assert spool.add(report(4))
    assert (len(spool), spool.highest_sequence()) == (1, 4)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_no_more_than_asked_for_are_returned(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    for number in (1, 2, 3):
        spool.add(report(number))
    assert [one["sequence"] for one in spool.oldest(2)] == [1, 2]


def test_a_full_disk_loses_the_oldest_never_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = 3

    def write(path: Path, content: bytes) -> None:
        if len(list(tmp_path.glob("*.gz"))) >= room:
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr(module, "write_atomically", write)
    spool = open_spool(tmp_path)
    assert all(spool.add(report(number)) for number in range(1, 6))
    assert (sequences(spool), spool.take_lost()) == ([3, 4, 5], 2)
    room = 0
    assert not spool.add(report(6))
    assert (sequences(spool), spool.take_lost()) == ([], 3)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE])
def test_a_disk_that_takes_nothing_costs_no_report_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_path: Path, _content: bytes) -> None:
        raise OSError(number, "no")

    spool = open_spool(tmp_path)
    for sequence in (1, 2, 3):
        assert spool.add(report(sequence))
    monkeypatch.setattr(module, "write_atomically", refuse)
    assert not spool.add(report(4))
    assert (sequences(spool), spool.take_lost()) == ([1, 2, 3], 0)


def test_want_of_descriptors_costs_no_report_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor may a younger report overtake one that cannot be read just now."""
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name.startswith(f"{1:020d}"):
            raise OSError(errno.EMFILE, "Too many open files")
        return read(path)

    spool = open_spool(tmp_path)
    spool.add(report(1))
    spool.add(report(2))
    with monkeypatch.context() as changed:
        changed.setattr(Path, "read_bytes", refuse)
        assert sequences(spool) == []
    assert (sequences(spool), spool.take_lost()) == ([1, 2], 0)


@pytest.mark.parametrize(
    "content", [[], {}, {"sequence": 1}, {"sender_id": SENDER}, report(2), report(1, sender="cd34")], ids=str
)
def test_a_file_with_something_else_than_its_name_says_costs_only_itself(tmp_path: Path, content: object) -> None:
    (tmp_path / f"{1:020d}-{SENDER}.json.gz").write_bytes(compress(json.dumps(content).encode()))
    spool = open_spool(tmp_path)
    spool.add(report(3))
    assert (sequences(spool), spool.take_lost()) == ([3], 1)


def test_a_link_to_nowhere_costs_only_itself(tmp_path: Path) -> None:
    open_spool(tmp_path).add(report(2))
    (tmp_path / f"{1:020d}-{SENDER}.json.gz").symlink_to(tmp_path / "gone")
    spool = open_spool(tmp_path)
    assert (sequences(spool), spool.take_lost()) == ([2], 1)


def test_a_file_cut_at_any_byte_costs_only_itself(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        open_spool(tmp_path).add(report(number))
    victim = sorted(tmp_path.iterdir())[1]
    whole = victim.read_bytes()
    for length in range(len(whole)):
        victim.write_bytes(whole[:length])
        spool = open_spool(tmp_path)
        assert sequences(spool) == [1, 3], length
        assert spool.take_lost() == 1
    victim.write_bytes(whole)
    assert sequences(open_spool(tmp_path)) == [1, 2, 3]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_in_a_file_cost_only_itself(tmp_path: Path, content: bytes, packed: bool) -> None:
    spool = open_spool(tmp_path)
    spool.acknowledge({(SENDER, 1), (SENDER, 2)})
    spool.add(report(1))
    spool.add(report(2))
    (tmp_path / f"{1:020d}-{SENDER}.json.gz").write_bytes(compress(content) if packed else content)
    assert sequences(open_spool(tmp_path)) == [2]


def test_foreign_files_are_left_alone_and_half_written_ones_removed(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    for number in range(10):  # enough to stand on either side of the foreign ones, whatever the order of the folder
        (tmp_path / f"notes-{number}.txt").write_text("mine", encoding="utf-8")
        (tmp_path / f".{number:020d}-{SENDER}.json.gz.7.tmp").write_bytes(b"half")
        spool.add(report(number))
    assert sequences(open_spool(tmp_path)) == list(range(10))
    assert sorted(file.name for file in tmp_path.iterdir() if not file.name.endswith(".gz")) == [
        f"notes-{number}.txt" for number in range(10)
    ]


def test_a_bomb_is_not_unpacked() -> None:
    assert len(decompress(compress(b"0" * 4_000_000))) == 4_000_000
    for size in (4_000_001, 50_000_000):
        with pytest.raises(ValueError, match="too large"):
            decompress(compress(b"0" * size))


def test_one_report_can_be_given_up(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.add(report(1))
    spool.add(report(2))
    spool.drop(SENDER, 1)
    assert (sequences(spool), spool.take_lost()) == ([2], 1)
