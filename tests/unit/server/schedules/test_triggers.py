"""Each kind of trigger says its fires and its words, and has its options: one that is forgotten is an error."""

from __future__ import annotations

import inspect
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from fleven.server.cli.schedule_options import option_problem, spec_options, trigger_from, trigger_options
from fleven.server.errors import UsageError
from fleven.server.schedules.spec import ScheduleSpec, trigger_text
from fleven.server.schedules.triggers import (
    TRIGGERS,
    AnyTrigger,
    AtTrigger,
    CronTrigger,
    EveryTrigger,
    ManualTrigger,
    TriggerPart,
)

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("trigger", "text", "first"),
    [
        (CronTrigger(cron="0 2 * * *", timezone="Europe/Lisbon"), "cron 0 2 * * * (Europe/Lisbon)", 13 * 60),
        (EveryTrigger(every=5400), "every 1h30m", 60),
        (EveryTrigger(every=5400, start=NOON), "every 1h30m", 90),
        (AtTrigger(at=NOON + timedelta(minutes=5)), "once at 2026-05-04 12:05 UTC", 5),
        (AtTrigger(at=NOON), "once at 2026-05-04 12:00 UTC", None),
        (ManualTrigger(), "manual", None),
    ],
)
def test_a_trigger_says_its_words_and_its_next_fire(trigger: AnyTrigger, text: str, first: int | None) -> None:
    assert trigger_text(ScheduleSpec(trigger=trigger)) == text
    follower = trigger_text(ScheduleSpec(trigger=trigger, after="other"))
    assert follower == ("after other" if text == "manual" else f"{text}, after other")
    found = next(trigger.fires_after(NOON, NOON - timedelta(minutes=30)), None)
    assert found == (None if first is None else NOON + timedelta(minutes=first))


def test_a_moment_without_a_zone_is_utc_and_one_with_a_zone_is_kept() -> None:
    there = timezone(timedelta(hours=-3))
    for moment in (datetime(2026, 5, 4, 12), datetime(2026, 5, 4, 9, tzinfo=there)):  # noqa: DTZ001  # that is the case
        assert AtTrigger(at=moment).at == NOON
        assert EveryTrigger(every=60, start=moment).start == NOON
        assert list(AtTrigger(at=moment).fires_after(NOON - timedelta(seconds=1), NOON)) == [NOON]


def test_a_kind_that_does_not_say_when_it_fires_or_its_words_cannot_be_made() -> None:
    with pytest.raises(TypeError, match=r"fires_after.*text"):
        TriggerPart(kind="moon")  # type: ignore[abstract]


def test_every_kind_has_its_option_and_an_option_for_each_of_its_fields() -> None:
    parameters = set(inspect.signature(spec_options).parameters)
    kinds = trigger_options()
    assert kinds == {"cron": ("timezone",), "every": ("start",), "at": (), "manual": ()}
    assert parameters >= set(kinds) | {name for names in kinds.values() for name in names}
    for trigger in TRIGGERS:
        assert trigger.model_fields["kind"].default in kinds


@pytest.mark.parametrize(
    ("options", "old", "expected"),
    [
        ({"cron": "0 2 * * *", "timezone": "UTC"}, None, {"kind": "cron", "cron": "0 2 * * *", "timezone": "UTC"}),
        ({"timezone": "UTC"}, {"kind": "cron", "cron": "1"}, {"kind": "cron", "cron": "1", "timezone": "UTC"}),
        ({"every": "6h"}, {"kind": "cron", "cron": "1 * * * *", "timezone": "UTC"}, {"kind": "every", "every": "6h"}),
        ({"manual": True}, {"kind": "every", "every": "6h"}, {"kind": "manual"}),
        ({"cron": None, "manual": None}, {"kind": "every", "every": "6h"}, None),
    ],
)  # fmt: skip
def test_options_become_one_trigger(
    options: dict[str, object], old: dict[str, object] | None, expected: dict[str, object] | None
) -> None:
    assert trigger_from(options, old) == expected


@pytest.mark.parametrize(
    ("options", "old", "problem"),
    [
        ({"cron": "0 2 * * *", "at": "x"}, None, "--cron and --at exclude each other"),
        ({"every": "6h", "timezone": "UTC"}, None, "--timezone goes with --cron"),
        ({"start": "x"}, {"kind": "manual"}, "--start goes with --every"),
        ({"start": "x"}, None, "--start goes with --every"),
    ],
)
def test_options_that_do_not_go_together_are_named(
    options: dict[str, object], old: dict[str, object] | None, problem: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(problem)):
        trigger_from(options, old)


def test_a_problem_of_a_trigger_is_told_with_its_option() -> None:
    assert option_problem(("trigger", "cron", "timezone"), "Value error, no") == "--timezone: no"
    assert option_problem(("trigger", "every", "every"), "too short") == "--every: too short"
    assert option_problem(("retry", "maximum-backoff"), "no") == "retry.maximum-backoff: no"
