"""Fires: no occurrence lost or doubled, whatever the clock and daylight saving do."""

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleven.server.runs.model import Reason
from fleven.server.schedules import calendar
from fleven.server.schedules.spec import Blackout, Missed, ScheduleSpec
from fleven.server.schedules.triggers import AnyTrigger, AtTrigger, CronTrigger, EveryTrigger, ManualTrigger

ZONES = ("America/Sao_Paulo", "Europe/Lisbon", "Australia/Lord_Howe")
EXPRESSIONS = ("0 2 * * *", "30 1 * * *", "15 2 * * *", "*/30 * * * *", "0 */2 * * *", "45 0-3 * * sun", "5 4 1 * *")
BASE = datetime(2017, 1, 1, tzinfo=UTC)

# Around changes of daylight saving: Lisbon and Lord Howe 2026, Sao Paulo 2018 (it has none since).
CHANGES = (
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),
    datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
    datetime(2018, 2, 18, 2, tzinfo=UTC),
    datetime(2018, 11, 4, 3, tzinfo=UTC),
)

moments = st.builds(
    lambda change, minutes: change + timedelta(minutes=minutes),
    st.sampled_from(CHANGES),
    st.integers(-3 * 1440, 3 * 1440),
)
triggers: st.SearchStrategy[AnyTrigger] = st.one_of(
    st.builds(
        lambda cron, zone: CronTrigger(cron=cron, timezone=zone), st.sampled_from(EXPRESSIONS), st.sampled_from(ZONES)
    ),
    st.builds(lambda seconds: EveryTrigger(every=seconds), st.integers(600, 90_000)),
    st.builds(lambda at: AtTrigger(at=at), moments),
)


def spec(trigger: AnyTrigger, missed: Missed = Missed.ALL, lateness: int = 366 * 86_400) -> ScheduleSpec:
    return ScheduleSpec(trigger=trigger, missed=missed, maximum_lateness=lateness)


@settings(max_examples=150, deadline=None)
@given(trigger=triggers, start=moments, gaps=st.lists(st.integers(1, 40_000), min_size=1, max_size=15))
def test_any_sequence_of_looks_finds_the_fires_that_one_look_finds(
    trigger: AnyTrigger, start: datetime, gaps: list[int]
) -> None:
    seen: list[datetime] = []
    anchor, now = start, start
    for gap in gaps:
        now += timedelta(seconds=gap)
        firing = calendar.fire(spec(trigger), anchor, BASE, now)
        assert not firing.passed
        assert firing.next_fire is None or firing.next_fire > now
        anchor = firing.anchor
        seen += firing.due
    assert seen == list(calendar.fire(spec(trigger), start, BASE, now).due)
    assert seen == sorted(set(seen))
    assert all(start < moment <= now for moment in seen)


@settings(max_examples=150, deadline=None)
@given(
    trigger=triggers,
    missed=st.sampled_from(Missed),
    lateness=st.integers(60, 200_000),
    start=moments,
    gaps=st.lists(st.integers(1, 200_000), min_size=1, max_size=8),
)
def test_every_fire_becomes_a_run_or_is_counted_as_passed(
    trigger: AnyTrigger, missed: Missed, lateness: int, start: datetime, gaps: list[int]
) -> None:
    due: list[datetime] = []
    counted = 0
    anchor, now = start, start
    for gap in gaps:
        now += timedelta(seconds=gap)
        firing = calendar.fire(spec(trigger, missed, lateness), anchor, BASE, now)
        anchor = firing.anchor
        due += firing.due
        counted += sum(passed.count for passed in firing.passed)
        for moment in firing.due:
            assert now - moment <= max(timedelta(seconds=lateness), calendar.ON_TIME)
        if missed is Missed.LATEST:
            assert sum(now - moment > calendar.ON_TIME for moment in firing.due) <= 1
        if missed is Missed.SKIP:
            assert all(now - moment <= calendar.ON_TIME for moment in firing.due)
    expected = list(calendar.fire(spec(trigger), start, BASE, now).due)
    assert len(due) + counted == len(expected)
    assert set(due) <= set(expected)


@settings(max_examples=150, deadline=None)
@given(
    trigger=triggers,
    start=moments,
    jumps=st.lists(st.integers(-100_000, 100_000), min_size=1, max_size=12),
)
def test_a_clock_set_back_or_forward_loses_and_doubles_nothing(
    trigger: AnyTrigger, start: datetime, jumps: list[int]
) -> None:
    # The register refuses a second run with the same key; a set stands for it here.
    made: set[datetime] = set()
    lowest = highest = anchor = now = start
    for jump in jumps:
        now += timedelta(seconds=jump)
        lowest, highest = min(lowest, now), max(highest, now)
        firing = calendar.fire(spec(trigger), anchor, BASE, now)
        anchor = firing.anchor
        assert anchor == now
        made |= set(firing.due)
    covered = set(calendar.fire(spec(trigger), lowest, BASE, highest).due)
    assert made <= covered
    assert {moment for moment in covered if start < moment <= highest} <= made


def at(zone: str, *parts: int, fold: int = 0) -> datetime:
    return datetime(*parts, tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("zone", "cron", "after", "expected"),
    [
        # Lisbon: 01:00 does not exist on 29 March 2026, the job runs right after the gap and once.
        ("Europe/Lisbon", "30 1 * * *", (2026, 3, 28, 12), [(2026, 3, 29, 2, 0), (2026, 3, 30, 1, 30)]),
        # Lisbon: 01:30 comes twice on 25 October 2026, the job runs at the first.
        ("Europe/Lisbon", "30 1 * * *", (2026, 10, 24, 12), [(2026, 10, 25, 1, 30), (2026, 10, 26, 1, 30)]),
        # Lord Howe moves by half an hour: 02:15 does not exist on 4 October 2026.
        ("Australia/Lord_Howe", "15 2 * * *", (2026, 10, 3, 12), [(2026, 10, 4, 2, 30), (2026, 10, 5, 2, 15)]),
        # Sao Paulo 2018: midnight does not exist on 4 November.
        ("America/Sao_Paulo", "0 0 * * *", (2018, 11, 3, 12), [(2018, 11, 4, 1, 0), (2018, 11, 5, 0, 0)]),
    ],
)
def test_daylight_saving_as_debian_cron_has_it(
    zone: str, cron: str, after: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    fires = calendar.next_fires(spec(CronTrigger(cron=cron, timezone=zone)), at(zone, *after), BASE, len(expected))
    assert fires == [at(zone, *moment) for moment in expected]


def test_a_wildcard_hour_follows_elapsed_time_through_the_repeated_hour() -> None:
    trigger = CronTrigger(cron="*/30 * * * *", timezone="Europe/Lisbon")
    fires = calendar.next_fires(spec(trigger), datetime(2026, 10, 25, 0, tzinfo=UTC), BASE, 6)
    assert {later - earlier for earlier, later in itertools.pairwise(fires)} == {timedelta(minutes=30)}


def test_manual_never_fires_and_at_fires_once() -> None:
    assert calendar.next_fire(spec(ManualTrigger()), BASE, BASE) is None
    trigger = AtTrigger(at=BASE + timedelta(hours=1))
    assert calendar.next_fires(spec(trigger), BASE, BASE, 5) == [BASE + timedelta(hours=1)]


def test_what_is_too_late_is_told_apart_from_what_was_missed() -> None:
    trigger = EveryTrigger(every=3600)
    firing = calendar.fire(spec(trigger, Missed.LATEST, 6 * 3600), BASE, BASE, BASE + timedelta(hours=10, minutes=30))
    assert firing.due == (BASE + timedelta(hours=10),)
    assert [(passed.reason, passed.count) for passed in firing.passed] == [(Reason.TOO_LATE, 4), (Reason.MISSED, 5)]


def test_a_long_outage_is_counted_only_so_far() -> None:
    trigger = EveryTrigger(every=10)
    firing = calendar.fire(spec(trigger, Missed.SKIP, 60), BASE, BASE, BASE + timedelta(days=300))
    assert firing.passed[0].count == 1_000


@pytest.mark.parametrize(
    ("after_the_fire", "due", "passed"),
    [
        (timedelta(0), 1, 0),
        (timedelta(seconds=90), 1, 0),
        (timedelta(seconds=90, microseconds=1), 0, 1),
    ],
)
def test_a_fire_is_on_time_for_ninety_seconds(after_the_fire: timedelta, due: int, passed: int) -> None:
    fire = BASE + timedelta(hours=1)
    firing = calendar.fire(spec(EveryTrigger(every=3600), Missed.SKIP), BASE, BASE, fire + after_the_fire)
    assert (len(firing.due), sum(part.count for part in firing.passed)) == (due, passed)


@pytest.mark.parametrize(("after_the_limit", "too_late"), [(timedelta(0), (1, 3)), (timedelta(microseconds=1), (1, 4))])
def test_a_fire_becomes_too_late_once_and_is_never_lost(after_the_limit: timedelta, too_late: tuple[int, int]) -> None:
    """The hours that are too late are summed up from the first to the last; those within the limit all get a run."""
    now = BASE + timedelta(hours=10) + after_the_limit
    firing = calendar.fire(spec(EveryTrigger(every=3600), Missed.ALL, 6 * 3600), BASE, BASE, now)
    (passed,) = firing.passed
    first, last = too_late
    assert (passed.first, passed.last) == (BASE + timedelta(hours=first), BASE + timedelta(hours=last))
    assert passed.count == last
    assert firing.due == tuple(BASE + timedelta(hours=hour) for hour in range(last + 1, 11))


def test_nothing_fires_at_the_moment_after_which_fires_are_looked_for() -> None:
    expected = BASE + timedelta(hours=1)
    for trigger in (CronTrigger(cron="0 * * * *"), EveryTrigger(every=3600), AtTrigger(at=expected)):
        assert calendar.next_fire(spec(trigger), BASE, BASE) == expected


@pytest.mark.parametrize(("hours", "first"), [(-2, 1), (0, 1), (5, 5)])
def test_every_counts_from_its_start_and_not_before_it(hours: int, first: int) -> None:
    trigger = EveryTrigger(every=3600, start=BASE + timedelta(hours=hours))
    assert calendar.next_fires(spec(trigger), BASE, BASE, 2) == [
        BASE + timedelta(hours=first),
        BASE + timedelta(hours=first + 1),
    ]


def test_an_expression_that_can_never_fire_is_refused() -> None:
    with pytest.raises(ValueError, match="not a cron expression"):
        CronTrigger(cron="0 0 30 2 *")


@pytest.mark.parametrize(
    ("windows", "now", "expected"),
    [
        ([("22:00", "06:00", ())], (2026, 5, 4, 23, 0), (2026, 5, 5, 6, 0)),
        ([("22:00", "06:00", ())], (2026, 5, 4, 6, 0), None),
        ([("22:00", "06:00", ("fri",))], (2026, 5, 9, 3, 0), (2026, 5, 9, 6, 0)),
        ([("22:00", "06:00", ("fri",))], (2026, 5, 10, 3, 0), None),
        ([("22:00", "06:00", ())], (2026, 5, 4, 22, 0), (2026, 5, 5, 6, 0)),
        ([("22:00", "06:00", ())], (2026, 5, 4, 21, 59), None),
        ([("08:00", "12:00", ()), ("12:00", "14:00", ())], (2026, 5, 4, 9, 0), (2026, 5, 4, 14, 0)),
        ([("08:00", "12:00", ()), ("11:00", "14:00", ())], (2026, 5, 4, 11, 30), (2026, 5, 4, 14, 0)),
        # From Monday morning to Saturday noon, in eleven windows of two.
        (
            [("00:00", "12:00", ()), ("12:00", "00:00", ("mon", "tue", "wed", "thu", "fri"))],
            (2026, 5, 4, 9, 0),
            (2026, 5, 9, 12, 0),
        ),
        # For ever: the first end that is a week away.
        ([("00:00", "12:00", ()), ("12:00", "00:00", ())], (2026, 5, 4, 12, 0), (2026, 5, 11, 12, 0)),
        ([("00:00", "12:00", ()), ("12:00", "00:00", ())], (2026, 5, 4, 12, 1), (2026, 5, 12, 0, 0)),
    ],
)
def test_blackouts(
    windows: list[tuple[str, str, tuple[str, ...]]], now: tuple[int, ...], expected: tuple[int, ...] | None
) -> None:
    made = tuple(Blackout.model_validate({"start": a, "end": b, "days": days}) for a, b, days in windows)
    moment = datetime(*now, tzinfo=UTC)  # type: ignore[misc,arg-type]
    assert calendar.blackout_until(made, moment) == (
        None if expected is None else datetime(*expected, tzinfo=UTC)  # type: ignore[misc,arg-type]
    )


@pytest.mark.parametrize("trigger", [CronTrigger(cron="* * * * *"), EveryTrigger(every=30, start=BASE)])
def test_the_latest_of_very_many_fires_is_the_latest(trigger: AnyTrigger) -> None:
    now = BASE + timedelta(days=20, minutes=10)
    firing = calendar.fire(spec(trigger, Missed.LATEST), BASE, now, now)
    assert firing.due[-1] == now
    assert all(now - moment <= calendar.ON_TIME for moment in firing.due)
    late = calendar.fire(spec(trigger, Missed.ALL), BASE, BASE, now)
    assert (late.due[-1], len(late.due)) == (now, 10_000)


@pytest.mark.parametrize("expression", ["0 0 2 * * *", "0 2 * *", "", "@daily"])
def test_a_cron_expression_has_five_fields(expression: str) -> None:
    with pytest.raises(ValueError, match="minute hour day month weekday"):
        CronTrigger(cron=expression)
