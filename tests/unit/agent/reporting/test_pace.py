"""How often a car speaks."""

from dataclasses import replace

import pytest

from fleven_agent.config.settings import Reports, Settings
from fleven_agent.protocol.codes import Attention
from fleven_agent.reporting.pace import METERED, USUAL, Pace, keepalive_seconds, pace

SETTINGS = Settings(partition_id=0, superlink="127.0.0.1:9092")
CLOSE = Pace(15.0, 30.0)
RUN = replace(CLOSE, heartbeat_seconds=15.0)


def test_a_server_of_before_leaves_everything_as_it_was() -> None:
    for settings in (SETTINGS, replace(SETTINGS, metered=True)):
        for busy in (False, True):
            assert pace(settings, None, busy=busy) == CLOSE


@pytest.mark.parametrize(("attention", "busy"), [(Attention.RUN, False), (Attention.CALM, True)])
def test_in_a_run_a_car_that_dies_is_missed_within_30_seconds_but_not_at_the_cost_of_a_metered_one(
    attention: Attention, busy: bool
) -> None:
    assert pace(SETTINGS, attention, busy=busy) == RUN
    assert 2 * RUN.heartbeat_seconds <= 30  # type: ignore[operator]  # Flower waits for two
    assert pace(replace(SETTINGS, metered=True), attention, busy=busy) == CLOSE


def test_a_calm_car_speaks_rarely_and_a_metered_one_more_rarely() -> None:
    assert pace(SETTINGS, Attention.CALM, busy=False) == Pace(180.0, 300.0, 120.0, 300.0)
    assert pace(replace(SETTINGS, metered=True), Attention.CALM, busy=False) == Pace(215.0, 1_800.0, 600.0, 1_200.0)
    assert keepalive_seconds(replace(SETTINGS, metered=True)) > keepalive_seconds(SETTINGS)


def test_a_watched_car_reports_and_beats_as_ever_and_pulls_rarely_still() -> None:
    assert pace(SETTINGS, Attention.WATCHED, busy=False) == Pace(15.0, 30.0, USUAL.pull_seconds, None)
    assert pace(replace(SETTINGS, metered=True), Attention.WATCHED, busy=False).pull_seconds == METERED.pull_seconds


def test_an_interval_that_the_operator_has_made_longer_stays() -> None:
    rare = replace(SETTINGS, reports=Reports(interval_seconds=600.0))
    assert pace(rare, Attention.CALM, busy=False).report_seconds == 600.0


def test_a_dead_car_is_missed_within_ten_minutes() -> None:
    for settings in (SETTINGS, replace(SETTINGS, metered=True)):
        assert 2.5 * 1.1 * pace(settings, Attention.CALM, busy=False).report_seconds <= 600
