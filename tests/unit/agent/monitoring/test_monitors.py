"""What the monitors ask again, and when."""

from pathlib import Path

import pytest

from fleven_agent.config.settings import Settings
from fleven_agent.monitoring.monitors import TOUCH_SECONDS, Monitors
from fleven_agent.monitoring.trip_folder import Summary
from fleven_agent.monitoring.trip_watch import Look


@pytest.mark.parametrize("unanswered", [Look(), Look(stuck="it does not answer")])
def test_a_scan_without_an_answer_is_not_tried_in_a_row(
    unanswered: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [unanswered, Look(summary=Summary(str(tmp_path), trips=1)), Look()]
    scans: list[bool] = []

    def look(_self: object, _folder: object, *, scan: bool) -> Look:
        scans.append(scan)
        return answers.pop(0)

    monkeypatch.setattr("fleven_agent.monitoring.trip_watch.TripWatch.look", look)
    settings = Settings(partition_id=0, superlink="127.0.0.1:9092", data_path=str(tmp_path))
    monitors = Monitors(settings, tmp_path, tmp_path, lambda: None)
    job = monitors._jobs[2]
    for _ in range(3):
        monitors._look_at_trips()
        assert job.interval_seconds == TOUCH_SECONDS
    assert scans == [True, True, False]
    assert monitors.data == Summary(str(tmp_path), trips=1)


def test_a_car_without_trips_looks_again_soon_and_one_with_trips_at_the_usual_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A car is kept out of runs until it has trips: whoever copies them now waits for the next look."""
    moment = [1_000.0]
    scans: list[bool] = []
    answers = [Summary(str(tmp_path), problem="no readable trip"), Summary(str(tmp_path), trips=1)]

    def look(_self: object, _folder: object, *, scan: bool) -> Look:
        scans.append(scan)
        return Look(summary=answers.pop(0) if scan and answers else None)

    monkeypatch.setattr("fleven_agent.monitoring.trip_watch.TripWatch.look", look)
    monkeypatch.setattr("fleven_agent.monitoring.monitors.time.monotonic", lambda: moment[0])
    settings = Settings(partition_id=0, superlink="127.0.0.1:9092", data_path=str(tmp_path))
    monitors = Monitors(settings, tmp_path, tmp_path, lambda: None)
    for _ in range(6):
        monitors._look_at_trips()
        moment[0] += TOUCH_SECONDS
    assert scans == [True, True, False, False, False, False]
