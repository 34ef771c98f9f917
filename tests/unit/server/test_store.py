"""The register's revisions, and what wakes the loop."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from fleven.server import editing, firing
from fleven.server.model import Reason
from fleven.server.schedule_spec import EveryTrigger, ScheduleSpec
from fleven.server.store import run_changes
from fleven.server.store import schedules as schedule_queries
from fleven.server.store.changes import ChangeCounter
from fleven.server.store.engine import MIGRATIONS, newest_revision


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
        assert run_changes.request_stop(connection, [world.run_id], Reason.OPERATOR, "enough") == 1


def pause(world: Any) -> None:
    with world.store.write() as connection:
        editing.pause(connection, "there", "", world.now + timedelta(seconds=1))


def remove(world: Any) -> None:
    with world.store.write() as connection:
        schedule_queries.delete(connection, ["there"])


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
