"""Tasks: followed through the log, and what each cost."""

import pytest

from fleven_agent.protocol.codes import TaskOutcome
from fleven_agent.supernode.flower import Event, Kind, line_for
from fleven_agent.supernode.tasks import Finished, Refusals, Sample, Tasks
from fleven_agent.system.tcp_counters import Traffic


def feed(tasks: Tasks, now: float, *lines: str) -> list[Finished]:
    finished: list[Finished] = []
    for text in lines:
        line = line_for("1.34.0").parse_line(text)
        tasks.on_line(line.text)
        if line.event is not None:
            finished += tasks.on_event(line.event, now, 1_000 + now)
    return finished


def begin(tasks: Tasks, now: float = 0, number: int = 1) -> None:
    assert (
        feed(tasks, now, f"[RUN 5, ROUND {number}]", "Receiving: train message (ID: a)", "Received successfully") == []
    )


def look(
    tasks: Tasks, now: float, *samples: Sample, traffic: Traffic | None = None, celsius: float | None = None
) -> list[Finished]:
    return tasks.observe(samples, traffic, celsius, now, stuck_seconds=600)


REPLY = ("[RUN 5, ROUND 1]", "Sending: train message (ID: b)", "Sent successfully")


def test_a_task_from_its_message_to_its_cost() -> None:
    tasks = Tasks()
    look(tasks, -1, traffic=Traffic(100, 50))
    begin(tasks)
    look(tasks, 1, Sample(9, 0.5, 80_000_000), traffic=Traffic(1_100, 60), celsius=61.0)
    look(tasks, 2, Sample(9, 1.5, 120_000_000), celsius=64.0)
    look(tasks, 3, Sample(9, 2.0, 90_000_000), celsius=62.0)
    assert feed(tasks, 4, *REPLY) == []
    [done] = look(tasks, 4.5, Sample(9, 2.5, None, True, 0), traffic=Traffic(1_150, 2_060))
    assert done == Finished(
        run_id="5",
        round=1,
        message_type="train",
        outcome=TaskOutcome.SUCCEEDED,
        started_at=1_000,
        cpu_seconds=2.5,
        peak_rss_bytes=120_000_000,
        wall_seconds=4,
        bytes_received=1_050,
        bytes_sent=2_010,
        maximum_temperature_celsius=64.0,
        warm=False,
        log_tail=None,
    )
    assert tasks.current is None


def test_a_task_without_a_measured_process_has_no_cost_but_ends() -> None:
    tasks = Tasks()
    begin(tasks)
    feed(tasks, 2, *REPLY)
    assert look(tasks, 4) == []
    [done] = look(tasks, 5.1)
    assert (done.cpu_seconds, done.peak_rss_bytes, done.bytes_sent, done.warm) == (None, None, None, None)


def test_an_exception_in_the_app_fails_the_task_and_keeps_its_words() -> None:
    tasks = Tasks()
    begin(tasks)
    feed(tasks, 1, "ERROR :     ClientApp raised an exception", "Traceback", "ValueError: no such column", *REPLY)
    [done] = look(tasks, 9)
    assert done.outcome is TaskOutcome.FAILED
    assert done.log_tail is not None
    assert "ValueError: no such column" in done.log_tail


def test_a_killed_clientapp_fails_the_task() -> None:
    tasks = Tasks()
    begin(tasks)
    look(tasks, 1, Sample(9, 0.5, 80))
    feed(tasks, 60, *REPLY)
    [done] = look(tasks, 61, Sample(9, 0.6, None, True, 9))
    assert done.outcome is TaskOutcome.FAILED


def test_a_supernode_that_dies_aborts_the_task() -> None:
    tasks = Tasks()
    begin(tasks)
    [done] = tasks.abort(3)
    assert (done.outcome, done.wall_seconds) == (TaskOutcome.ABORTED, 3)
    assert tasks.abort(3) == []


def test_a_task_that_was_answered_before_the_end_has_succeeded() -> None:
    tasks = Tasks()
    begin(tasks)
    feed(tasks, 2, *REPLY)
    assert tasks.abort(2.1)[0].outcome is TaskOutcome.SUCCEEDED


def test_a_run_that_was_stopped_aborts_the_task() -> None:
    tasks = Tasks()
    begin(tasks)
    [done] = feed(tasks, 2, "Run ID 5 is not in `RUNNING` status. Ignoring reply message a.")
    assert done.outcome is TaskOutcome.ABORTED


@pytest.mark.parametrize("before", ["[RUN 4, ROUND 12]", "[RUN 5, ROUND 8]"])
@pytest.mark.parametrize(
    "end", ["Sent successfully", "Run ID 4 is not in `RUNNING` status. Ignoring reply", "Failed to send message b: no"]
)
def test_an_answer_to_a_task_of_before_says_nothing_of_this_one(before: str, end: str) -> None:
    """A task of a car's was killed as the next one came; SuperNode sends the error for it while that one works."""
    tasks = Tasks()
    begin(tasks, number=9)
    look(tasks, 1, Sample(9, 0.5, 80_000_000))
    assert feed(tasks, 2, before, "Sending: train message (ID: b)", end) == []
    task = tasks.current
    assert task is not None
    assert (task.sending, task.replied, task.failed) == (False, None, False)
    look(tasks, 3, Sample(9, 0.5, None, True, 0))
    assert task.died  # SuperNode asks for this answer only after its next task, so that the server waits in vain
    feed(tasks, 4, "[RUN 5, ROUND 9]", *REPLY[1:])
    assert task.replied == 4


def test_the_next_task_closes_the_one_before() -> None:
    tasks = Tasks()
    begin(tasks)
    feed(tasks, 1, *REPLY)
    [done] = feed(tasks, 2, "[RUN 5, ROUND 2]", "Receiving: evaluate message (ID: c)")
    assert (done.round, done.outcome) == (1, TaskOutcome.SUCCEEDED)
    assert tasks.current is not None
    assert (tasks.current.round, tasks.current.message_type) == (2, "evaluate")


def test_a_replaced_connection_counts_from_zero() -> None:
    tasks = Tasks()
    look(tasks, -1, traffic=Traffic(5_000, 5_000))
    begin(tasks)
    feed(tasks, 1, *REPLY)
    [done] = look(tasks, 9, traffic=Traffic(700, 300))
    assert (done.bytes_received, done.bytes_sent) == (700, 300)


def test_progress_is_cpu_time_and_a_heartbeat_is_none() -> None:
    tasks = Tasks()
    begin(tasks)
    look(tasks, 1, Sample(9, 1.0, 80))
    assert tasks.current is not None
    look(tasks, 100, Sample(9, 1.1, 80))
    assert tasks.current.progress == 1
    look(tasks, 200, Sample(9, 1.6, 80))
    assert tasks.current.progress == 200


def test_a_warm_task_says_so() -> None:
    tasks = Tasks()
    begin(tasks)
    feed(tasks, 1, *REPLY)
    [done] = look(tasks, 2, Sample(8, 0.1, 9, True, 0), Sample(9, 1.0, 80, True, 0, warm=True))
    assert (done.warm, done.cpu_seconds) == (True, 1.1)


REFUSED = "level=WARNING event=task-refused kind=train code=data-missing reason='no folder /data/client_0'"


def refused_task(tasks: Tasks, line: str, now: float) -> Finished:
    tasks.on_event(Event(Kind.TASK_RECEIVING, message_type="train"), now, now)
    tasks.on_line(line)
    tasks.on_event(Event(Kind.TASK_SENT), now, now)
    (finished,) = tasks.observe([], None, None, now + 10, stuck_seconds=600)
    return finished


def test_a_car_whose_tasks_the_app_refuses_is_set_aside_until_its_trips_change() -> None:
    tasks, refusals = Tasks(), Refusals()
    first = refused_task(tasks, REFUSED, 0.0)
    assert first.refusal == "data-missing: no folder /data/client_0"
    refusals.count(first, "no trips")
    assert refusals.problem("no trips") == "", "one may be an accident"
    refusals.count(refused_task(tasks, REFUSED, 20.0), "no trips")
    problem = refusals.problem("no trips")
    assert problem == "the app refused the last 2 tasks of this car: data-missing: no folder /data/client_0"
    assert refusals.problem("a new trip") == ""
    assert refusals.problem("a new trip") == ""


def test_a_task_that_succeeds_ends_a_series_of_refusals() -> None:
    tasks, refusals = Tasks(), Refusals()
    refusals.count(refused_task(tasks, REFUSED, 0.0), None)
    refusals.count(refused_task(tasks, "level=INFO event=trained", 20.0), None)
    refusals.count(refused_task(tasks, REFUSED, 40.0), None)
    assert refusals.problem(None) == ""
