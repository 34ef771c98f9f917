"""When backups are made, what keeps them from being made, and who hears of that."""

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyrage
import pytest

from fleven.server.backup.restoring import restore
from fleven.server.backup.sealing import Opener
from fleven.server.checks import Context, register_backup
from fleven.server.config.loader import load
from fleven.server.config.paths import Paths
from fleven.server.database import open_store
from fleven.server.nodes.registry import NodeRegistry
from fleven.server.schemas.status import server_status
from fleven.server.service.housekeeping import Housekeeping, backup_is_due

KEY = pyrage.x25519.Identity.generate()
NOON = datetime.now(UTC).astimezone().replace(hour=12, minute=0, second=0, microsecond=0).astimezone(UTC)


class AtOnce:
    """An executor that works at once."""

    def submit(self, work: Callable[[], None]) -> "Future[None]":
        work()
        return Future()


class House:
    """A server's state folder, and who keeps it."""

    def __init__(self, folder: Path) -> None:
        self.paths = Paths(folder / "state")
        self.paths.state.mkdir()
        config = folder / "server.toml"
        config.write_text(f'[backup]\nrecipients = ["{KEY.to_public()}"]\n[retention]\nbackups-days = 3\n')
        self.loaded = load(config)
        self.store = open_store(self.paths.register)
        executor: Any = AtOnce()
        self.keeper = Housekeeping(self.store, self.loaded, self.paths, executor)

    def turns(self, at: datetime, count: int = 6) -> None:
        for _ in range(count):
            self.keeper.run_due(at)

    def made(self) -> set[str]:
        return {file.name for file in self.paths.backups.iterdir()}

    def told(self, at: datetime) -> tuple[list[str], str]:
        """What the page and `status` list as problems, and what `check` says."""
        register = NodeRegistry.from_config(self.store, self.loaded.config)
        status = server_status(self.store, register, self.loaded.config, self.paths, at)
        with closing(Context(self.loaded.files[0], self.paths, at)) as context:
            result = register_backup(context)
        return [problem for problem in status.problems if "nightly" in problem], f"{result.status}: {result.message}"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.store.close()


def named(at: datetime) -> set[str]:
    return {f"register-{at:%Y-%m-%d}.db", f"fleven-{at:%Y-%m-%d}.age"}


@pytest.mark.parametrize(
    ("hour", "last", "due"), [(3, None, True), (3, "04:00", False), (3, "02:59", True), (13, "02:59", False)]
)
def test_a_backup_is_due_once_a_day_from_its_hour_on(hour: int, last: str | None, due: bool) -> None:
    noon = datetime.fromisoformat("2026-11-28T12:00")
    assert backup_is_due(noon, hour, None if last is None else datetime.fromisoformat(f"2026-11-28T{last}")) is due


def test_a_copy_and_a_sealed_backup_are_made_each_night_and_old_ones_go(house: House, tmp_path: Path) -> None:
    house.turns(NOON)
    assert house.made() == named(NOON)
    sealed = house.paths.backups / f"fleven-{NOON:%Y-%m-%d}.age"
    assert sealed.stat().st_mode & 0o777 == 0o600
    before = sealed.stat().st_mtime_ns
    house.turns(NOON + timedelta(hours=2))
    assert sealed.stat().st_mtime_ns == before
    for file in house.paths.backups.iterdir():
        # As after four days: the time of a new file is this machine's, and not the test's.
        os.utime(file, (file.stat().st_mtime - 4 * 86_400,) * 2)
    later = NOON + timedelta(days=1)
    house.turns(later)
    assert house.made() == named(later)
    assert house.told(later)[0] == []

    new = Paths(tmp_path / "new")
    new.state.mkdir()
    opener = Opener(lambda: "", (str(KEY).encode(),))
    file = house.paths.backups / f"fleven-{later:%Y-%m-%d}.age"
    done = restore(file, opener, new, tmp_path / "new.toml", later, force=False, keep_configuration=False)
    assert done.manifest.with_keys
    assert new.register.exists()


def test_recipients_that_were_named_today_need_not_wait_for_the_night(house: House) -> None:
    recipients, house.keeper.config = (
        house.keeper.config,
        house.loaded.config.model_copy(
            update={"backup": house.loaded.config.backup.model_copy(update={"recipients": ()})}
        ),
    )
    house.turns(NOON)
    assert house.made() == {f"register-{NOON:%Y-%m-%d}.db"}
    house.keeper.config = recipients
    house.turns(NOON + timedelta(minutes=1))
    assert house.made() == named(NOON)


def test_a_failure_is_told_tried_again_and_keeps_nothing_else_from_being_done(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.paths.superlink_database.mkdir()  # no database can be read there
    with caplog.at_level(logging.WARNING):
        house.turns(NOON)
    assert house.made() == {f"register-{NOON:%Y-%m-%d}.db"}
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("event=housekeeping-failed job=sealed-backup error=")
    assert (house.keeper.retained_at, house.keeper.models_at) == (NOON, NOON)
    [problem], checked = house.told(NOON)
    assert problem.startswith("the nightly backup with keys failed: ")
    assert checked.startswith("warning: the nightly backup with keys failed: ")
    assert str(house.paths.superlink_database) in checked

    house.paths.superlink_database.rmdir()
    house.turns(NOON + timedelta(minutes=14))
    assert house.told(NOON)[0]
    house.turns(NOON + timedelta(minutes=16))
    assert house.made() == named(NOON)
    problems, checked = house.told(NOON)
    assert (problems, checked.partition(":")[0]) == ([], "ok")


def test_a_failed_copy_is_told_too(house: House) -> None:
    house.paths.backups.write_text("in the way")
    house.turns(NOON)
    problems, checked = house.told(NOON)
    assert [problem.partition(" failed")[0] for problem in problems] == [
        "the nightly copy of the register",
        "the nightly backup with keys",
    ]
    assert checked.startswith("warning: the nightly copy of the register failed: ")
