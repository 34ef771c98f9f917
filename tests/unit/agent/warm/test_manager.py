"""The agent's handle where nothing runs: what it writes, and what it tells."""

import sys
from pathlib import Path

import pytest

from fleven_agent.warm import launcher, manager
from fleven_agent.warm.manager import WarmServer
from fleven_agent.warm.programs import CLIENTAPP, PROGRAMS, SUPEREXEC, SUPERNODE
from fleven_agent.warm.settings import Fallback, WarmMode, WarmReason, WarmSettings, WarmState

GIBIBYTE = 1 << 30


@pytest.fixture
def flower(tmp_path: Path) -> str:
    """A folder with programs of Flower's names."""
    folder = tmp_path / "flower"
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(f"#!{sys.executable} -Iu\n")
        (folder / name).chmod(0o755)
    return str(folder)


def server(folder: Path, *, memory_bytes: int = 4 * GIBIBYTE, **settings: object) -> WarmServer:
    return WarmServer(
        WarmSettings(**settings),  # type: ignore[arg-type]
        state_directory=folder / "state",
        runtime_directory=folder / "run",
        total_memory_bytes=memory_bytes,
    )


def test_our_programs_stand_first_on_path_and_the_rest_of_the_environment_stays(tmp_path: Path, flower: str) -> None:
    warm = server(tmp_path)
    base = {"PATH": f"{flower}:/bin", "HOME": "/var/lib/fleven"}
    environment = warm.environment(base)
    files = {
        "FLEVEN_PACE_FILE": f"{tmp_path}/run/warm/pace.json",
        "FLEVEN_APPS_FILE": f"{tmp_path}/run/warm/apps.json",
    }
    assert environment == {**base, **files, "PATH": f"{tmp_path}/state/warm/bin:{flower}:/bin"}
    assert warm.supernode_program(environment) == f"{tmp_path}/state/warm/bin/{SUPERNODE}"
    assert (tmp_path / "run" / "warm").stat().st_mode & 0o777 == 0o700


def test_our_folder_is_put_in_front_once(tmp_path: Path, flower: str) -> None:
    warm = server(tmp_path)
    once = warm.environment({"PATH": flower})
    assert warm.environment(once) == once


def test_a_small_board_keeps_the_short_waits_and_no_launcher(tmp_path: Path, flower: str) -> None:
    warm = server(tmp_path, memory_bytes=GIBIBYTE)
    warm.environment({"PATH": flower})
    assert {path.name for path in (tmp_path / "state" / "warm" / "bin").iterdir()} == {SUPEREXEC, SUPERNODE}
    warm.tick(wanted=True)
    status = warm.status()
    assert (status["state"], status["reason"]) == (WarmState.OFF, WarmReason.MEMORY_TOO_SMALL)
    assert "1024 MiB" in str(status["message"])
    assert warm.process_ids() == []


def test_everything_off_changes_and_writes_nothing(tmp_path: Path, flower: str) -> None:
    warm = server(tmp_path, mode=WarmMode.OFF, short_polling=False)
    assert warm.environment({"PATH": flower}) == {"PATH": flower}
    assert warm.supernode_program({"PATH": flower}) == f"{flower}/{SUPERNODE}"
    assert not (tmp_path / "state").exists()
    assert warm.status()["reason"] == WarmReason.SWITCHED_OFF


def test_without_flower_nothing_is_put_in_front(tmp_path: Path) -> None:
    warm = server(tmp_path)
    assert warm.environment({"PATH": "/nowhere"}) == {"PATH": "/nowhere"}
    assert warm.status()["reason"] == WarmReason.FLOWER_NOT_FOUND


def test_a_folder_that_cannot_be_written_leaves_flower_alone(tmp_path: Path, flower: str) -> None:
    (tmp_path / "state").write_text("a file in the way")
    warm = server(tmp_path)
    assert warm.environment({"PATH": flower}) == {"PATH": flower}
    status = warm.status()
    assert (status["state"], status["reason"]) == (WarmState.OFF, WarmReason.FOLDER_UNUSABLE)


def test_cold_starts_are_counted_once_each_and_the_file_is_bounded(tmp_path: Path, flower: str) -> None:
    warm = server(tmp_path)
    warm.environment({"PATH": flower})
    notes = tmp_path / "run" / "warm" / "fallbacks"
    with notes.open("a") as stream:
        for reason in (Fallback.ABSENT, Fallback.TIMEOUT, Fallback.ABSENT):
            stream.write(f"1800000000 {reason}\n")
        stream.write("1800000000 unfin")
    warm.tick(wanted=False)
    assert (warm.status()["tasks_cold"], warm.status()["last_cold_reason"]) == (3, Fallback.ABSENT)
    with notes.open("a") as stream:
        stream.write("ished\n" + f"1800000000 {Fallback.ERROR}\n" * 5000)
    warm.tick(wanted=False)
    assert warm.status()["tasks_cold"] == 5004
    assert notes.stat().st_size < 64 * 1024


def test_notes_of_an_agent_before_this_one_are_not_counted_again(tmp_path: Path, flower: str) -> None:
    (tmp_path / "run" / "warm").mkdir(parents=True)
    (tmp_path / "run" / "warm" / "fallbacks").write_text(f"1800000000 {Fallback.ABSENT}\n")
    warm = server(tmp_path)
    warm.environment({"PATH": flower})
    warm.tick(wanted=False)
    assert warm.status()["tasks_cold"] == 0


def test_no_warm_process_starts_while_memory_is_short(tmp_path: Path, flower: str) -> None:
    warm = server(tmp_path, minimum_available_bytes=1 << 60)
    warm.environment({"PATH": flower})
    warm.tick(wanted=True)
    status = warm.status()
    assert (status["state"], status["reason"]) == (WarmState.ABSENT, WarmReason.MEMORY_PRESSURE)


def test_the_status_is_flat_as_the_report_wants_it(tmp_path: Path) -> None:
    assert all(
        value is None or isinstance(value, str | int | float | bool) for value in server(tmp_path).status().values()
    )


def test_the_names_are_those_that_flower_starts() -> None:
    assert (CLIENTAPP, SUPEREXEC, SUPERNODE) == ("flwr-clientapp", "flower-superexec", "flower-supernode")
    assert manager.FALLBACKS == launcher.FALLBACKS_NAME
