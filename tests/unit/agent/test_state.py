"""The state file survives cuts at every byte, other versions and full disks; sequences are never used twice."""

import errno
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleven_agent import state as agent_state
from fleven_agent.common.files import write_atomically
from fleven_agent.protocol.identity import MAXIMUM_SEQUENCE_STEP
from fleven_agent.state import SEQUENCE_BLOCK, AgentState, Remembered, StateFile, decode, encode, fresh

STATE = Remembered(
    sender_id="ab12", sequence_reserved=5, attempt=2, node_id="7", previous_node_ids=("6", "5"), drained=True
)


def load(folder: Path) -> tuple[Remembered, list[str]]:
    warnings: list[str] = []
    return StateFile(folder).load(warn=warnings.append), warnings


def test_what_was_saved_is_remembered_and_private(tmp_path: Path) -> None:
    StateFile(tmp_path).save(STATE)
    assert load(tmp_path) == (STATE, [])
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def test_without_a_file_the_state_is_fresh_and_no_two_are_alike(tmp_path: Path) -> None:
    assert load(tmp_path)[1] == []
    assert fresh().sender_id != fresh().sender_id


def test_a_file_cut_at_any_byte_starts_afresh_and_is_kept_aside(tmp_path: Path) -> None:
    whole = encode(STATE)
    for length in range(len(whole)):
        (tmp_path / "state.json").write_bytes(whole[:length])
        found, warnings = load(tmp_path)
        assert found.sender_id != STATE.sender_id
        assert len(warnings) == 1
        assert (tmp_path / "state.json.unusable").read_bytes() == whole[:length]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 2),
        ("attempt", "2"),
        ("attempt", -1),
        ("attempt", True),
        ("drained", 1),
        ("node_id", 7),
        ("sender_id", ""),
    ],
)
def test_a_value_of_the_wrong_kind_starts_afresh(tmp_path: Path, name: str, value: object) -> None:
    content = {"version": 1, **asdict(STATE), name: value}
    (tmp_path / "state.json").write_text(json.dumps(content), encoding="utf-8")
    assert len(load(tmp_path)[1]) == 1


def test_unknown_and_missing_fields_are_no_problem() -> None:
    assert decode(b'{"version": 1, "sender_id": "ab", "of_a_newer_agent": 3}') == Remembered(sender_id="ab")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_start_afresh(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)
    found, _ = load(tmp_path)
    assert found.sender_id


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "state.json"
    write_atomically(target, b"old")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fleven_agent.state.os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def test_root_does_not_write_through_a_link_in_the_services_folder(tmp_path: Path) -> None:
    victim = tmp_path / "shadow"
    victim.write_text("kept")
    link = tmp_path / "state" / f".state.json.{os.getpid()}.tmp"
    link.parent.mkdir()
    link.symlink_to(victim)
    write_atomically(tmp_path / "state" / "state.json", b"new")
    assert victim.read_text() == "kept"
    assert (tmp_path / "state" / "state.json").read_bytes() == b"new"
    assert not (tmp_path / "state" / "state.json").is_symlink()


def test_sequences_grow_across_restarts_and_are_reserved_before_use(tmp_path: Path) -> None:
    first = AgentState(tmp_path)
    assert [first.next_sequence() for _ in range(3)] == [1, 2, 3]
    assert decode((tmp_path / "state.json").read_bytes()).sequence_reserved == 1 + SEQUENCE_BLOCK
    assert AgentState(tmp_path).next_sequence() == 1 + SEQUENCE_BLOCK + 1


def test_a_server_that_knows_more_pushes_the_sequence_on(tmp_path: Path) -> None:
    memory = AgentState(tmp_path)
    memory.acknowledged(5_000)
    assert memory.next_sequence() == 5_001


def test_a_card_copied_for_another_board_begins_as_a_new_node(tmp_path: Path) -> None:
    first = AgentState(tmp_path, "100000003d1d1c36")
    first.registered("1")
    first.change(drained=True, drain_reason="at the workshop")
    first.save()
    again = AgentState(tmp_path, "100000003d1d1c36").known
    assert (again.sender_id, again.node_id) == (first.known.sender_id, "1")
    copy = AgentState(tmp_path, "10000000deadbeef").known
    assert copy.sender_id != first.known.sender_id
    assert (copy.node_id, copy.previous_node_ids) == (None, ())
    assert (copy.drained, copy.drain_reason) == (True, "at the workshop")
    assert AgentState(tmp_path).known.sender_id == first.known.sender_id  # no serial number, no question


def test_a_state_from_before_boards_were_noted_stays_itself(tmp_path: Path) -> None:
    old = AgentState(tmp_path)
    old.save()
    assert AgentState(tmp_path, "100000003d1d1c36").known.sender_id == old.known.sender_id


def test_node_ids_are_kept_newest_first(tmp_path: Path) -> None:
    memory = AgentState(tmp_path)
    assert memory.registered("1") is None
    assert memory.registered("1") is None
    assert memory.registered("2") == "1"
    assert memory.registered("3") == "2"
    assert memory.registered("1") == "3"
    assert (memory.known.node_id, memory.known.previous_node_ids) == ("1", ("3", "2"))


def test_a_disk_that_takes_nothing_is_a_problem_not_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = AgentState(tmp_path)

    def fail(_file: StateFile, _state: Remembered) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(agent_state.StateFile, "save", fail)
    memory.count(tasks=1)
    memory.save()
    assert "No space left" in memory.problem
    monkeypatch.undo()
    memory.save()
    assert memory.problem == ""
    assert AgentState(tmp_path).known.tasks == 1


def test_nothing_is_written_when_nothing_changed(tmp_path: Path) -> None:
    memory = AgentState(tmp_path)
    memory.save()
    (tmp_path / "state.json").unlink()
    memory.change(attempt=memory.known.attempt)
    memory.save()
    assert not (tmp_path / "state.json").exists()
    memory.known = replace(memory.known)


def test_a_card_that_was_copied_during_an_upgrade_begins_undrained(tmp_path: Path) -> None:
    first = AgentState(tmp_path, "100000003d1d1c36")
    first.change(drained=True, drain_reason="package upgrade", drained_until_restart=True)
    first.save()
    copy = AgentState(tmp_path, "10000000deadbeef").known
    assert (copy.drained, copy.drain_reason) == (False, "")


def test_a_number_that_no_car_reaches_does_not_use_up_the_others(tmp_path: Path) -> None:
    state = AgentState(tmp_path)
    first = state.next_sequence()
    assert state.acknowledged(first + MAXIMUM_SEQUENCE_STEP + 1) is False
    assert state.next_sequence() == first + 1
    assert state.acknowledged(first + 50) is True
    assert state.acknowledged(first + 50) is False
    assert state.next_sequence() == first + 51


def test_counted_bytes_are_written_with_every_megabyte_and_with_what_changes(tmp_path: Path) -> None:
    state = AgentState(tmp_path)
    state.save()
    state.counted("2026-05-30", 999_999, 999_999)
    state.save()
    assert AgentState(tmp_path).known.traffic_month_bytes == 0
    state.counted("2026-05-30", 1_000_000, 1_000_000)
    state.save()
    assert AgentState(tmp_path).known.traffic_month_bytes == 1_000_000
    state.counted("2026-05-30", 1_000_001, 1_000_001)
    state.count(tasks=1)
    state.save()
    known = AgentState(tmp_path).known
    assert (known.traffic_day, known.traffic_day_bytes, known.traffic_month_bytes) == (
        "2026-05-30",
        1_000_001,
        1_000_001,
    )


def test_a_state_folder_that_cannot_be_written_says_what_to_do_about_its_own_reason() -> None:
    assert "writable" in agent_state.unusable_hint(errno.EROFS)
    assert "inodes" in agent_state.unusable_hint(errno.ENOSPC)
    assert "owner" in agent_state.unusable_hint(errno.EACCES)
