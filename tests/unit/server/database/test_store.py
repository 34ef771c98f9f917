"""The register's revisions, and what wakes the loop."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from fleven.server.database import engine as engine_module
from fleven.server.database import open_store
from fleven.server.database.change_counter import ChangeCounter
from fleven.server.database.engine import BUSY_TIMEOUT_SECONDS, MIGRATIONS, back_up, create, newest_revision
from fleven.server.errors import StoreError
from fleven.server.runs import firing
from fleven.server.runs import store as run_store
from fleven.server.runs.model import Reason
from fleven.server.schedules import editing
from fleven.server.schedules import store as schedule_store
from fleven.server.schedules.spec import ScheduleSpec
from fleven.server.schedules.triggers import EveryTrigger
from fleven.server.service.service import WATCHDOG_EVERY_SECONDS


def test_the_file_names_tell_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert newest_revision() == ScriptDirectory.from_config(config).get_current_head()


def add_schedule(world: Any) -> None:
    with world.store.write() as connection:
        editing.add(connection, "often", ScheduleSpec(trigger=EveryTrigger(every=600)), world.now)


def run_now(world: Any) -> None:
    with world.store.write() as connection:
        firing.run_now(connection, "by-hand", ScheduleSpec(), world.now)


def stop(world: Any) -> None:
    with world.store.write() as connection:
        assert run_store.request_stop(connection, [world.run_id], Reason.OPERATOR, "enough") == 1


def pause(world: Any) -> None:
    with world.store.write() as connection:
        editing.pause(connection, "there", "", world.now + timedelta(seconds=1))


def remove(world: Any) -> None:
    with world.store.write() as connection:
        schedule_store.delete(connection, ["there"])


@pytest.mark.parametrize("change", [add_schedule, run_now, stop, pause, remove])
def test_a_command_wakes_the_loop_and_a_report_does_not(world: Any, change: Callable[[Any], None]) -> None:
    with world.store.write() as connection:
        editing.add(connection, "there", ScheduleSpec(), world.now)
        world.run_id = firing.run_now(connection, "there", ScheduleSpec(), world.now)
    counter = ChangeCounter(Path(world.store.path))
    try:
        assert counter.changed()
        assert not counter.changed()
        # A report commits too, but nothing that runs are decided on.
        world.store.set_fact("anything", {}, world.now)
        assert not counter.changed()
        change(world)
        assert counter.changed()
        assert not counter.changed()
    finally:
        counter.close()


def test_a_backup_is_made_while_others_write_all_the_time(tmp_path: Path) -> None:
    now = datetime(2026, 5, 4, 3, tzinfo=UTC)
    stop = threading.Event()
    with closing(open_store(tmp_path / "register.db")) as store:
        store.set_fact("large", "x" * 40_000_000, now)
        store.set_fact("small", 1, now)

        def write_on() -> None:
            with closing(sqlite3.connect(store.path, isolation_level=None, timeout=20)) as connection:
                # Faster than any disk, so that there is a commit whenever the copy takes breath.
                connection.execute("PRAGMA synchronous = OFF")
                while not stop.is_set():
                    connection.execute("UPDATE facts SET at = at + 1 WHERE key = 'small'")

        writer = threading.Thread(target=write_on, daemon=True)
        backup = threading.Thread(target=lambda: back_up(store, tmp_path / "backups", now, 7), daemon=True)
        writer.start()
        backup.start()
        backup.join(20)
        never_ended = backup.is_alive()
        stop.set()
        writer.join(20)
        backup.join(20)
    assert not never_ended
    with closing(open_store(tmp_path / "backups" / "register-2026-05-04.db", check=True)) as copy:
        assert copy.fact("large") == ("x" * 40_000_000, now)


def test_a_run_of_an_earlier_version_is_read_after_the_migration(tmp_path: Path) -> None:
    file = tmp_path / "register.db"
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create(file)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        connection.exec_driver_sql(
            "INSERT INTO runs (schedule_name, occurrence_key, trigger, due_at, created_at, state, reason, message,"
            " since, spec, attempts, stop_message, fires)"
            " VALUES ('a', 'a@1', 'manual', 0, 0, 'waiting', 'too-few-nodes', '', 0, '{}', 0, '', 1)"
        )
    engine.dispose()
    with closing(open_store(file)) as store, store.read() as connection:
        run = run_store.get(connection, 1)
    assert (run.waited_seconds, run.waits_since) == (0, None)


def test_who_waits_for_threads_and_for_a_process_waits_no_longer_than_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 0.6 s after the other thread, and again after the other process, would be 1.2 s.
    monkeypatch.setattr(engine_module, "BUSY_TIMEOUT_SECONDS", 0.6)
    store = open_store(tmp_path / "register.db")
    with closing(sqlite3.connect(tmp_path / "register.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        begun, failed = time.monotonic(), list[str]()

        def write() -> None:
            with pytest.raises(StoreError, match="locked") as caught, store.write():
                pass
            failed.append(caught.value.code)

        waiting = [threading.Thread(target=write) for _ in range(2)]
        for thread in waiting:
            thread.start()
        for thread in waiting:
            thread.join(20)
        took = time.monotonic() - begun
        other.execute("ROLLBACK")
    assert failed == ["register-locked"] * 2
    assert took < 1.1
    store.close()


def test_the_service_is_not_killed_for_waiting_for_the_register() -> None:
    unit = (Path(__file__).parents[4] / "systemd/fleven-server.service").read_text()
    (watchdog,) = (int(line.partition("=")[2]) for line in unit.splitlines() if line.startswith("WatchdogSec="))
    assert watchdog > BUSY_TIMEOUT_SECONDS + 2 * WATCHDOG_EVERY_SECONDS
