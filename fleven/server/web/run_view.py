"""What the page of one run shows, computed from its files: charts, the cars' table, who contributed when. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fleven.server.access.model import Role
from fleven.server.access.routes import file_role
from fleven.server.charts import Series, svg_line_chart
from fleven.server.runs.results import number
from fleven.server.schemas.runs import RunDetailAnswer, RunFile

Row = dict[str, Any]
CARS_IN_CHART = 8
"""As many lines as the style sheet has colours for; above that only the fleet's line is drawn."""


@dataclass(frozen=True, slots=True)
class CarRow:
    """One car of a run."""

    label: str
    partition_id: int | None
    node_name: str
    rmse: float | None
    mae: float | None
    r2: float | None
    personal_rmse: float | None
    personal_kept: bool
    rows: float | None
    windows_train: float | None
    windows_test: float | None
    seconds: float | None
    rounds_contributed: int
    cells: tuple[str, ...]
    """For each round `yes`, `no` (a coded error or no reply) or `none` (not asked)."""
    colour: int


@dataclass(frozen=True, slots=True)
class RunView:
    """The parts of the page that have to be computed."""

    unit: str
    target: str
    error_chart: Markup
    loss_chart: Markup
    chart_legend: tuple[str, ...]
    cars: tuple[CarRow, ...]
    excluded: tuple[Row, ...]
    warnings: tuple[Row, ...]
    rounds: tuple[int, ...]
    plots: tuple[str, ...]
    failed_tasks: tuple[Row, ...]
    newest: Row | None
    files: tuple[tuple[RunFile, bool], ...]
    """Each file with whether it may be fetched by who looks."""


def view(run: RunDetailAnswer, role: Role) -> RunView:
    """Compute the page for somebody of a role."""
    result = run.result or {}
    files = tuple((file, role.covers(file_role(file.name))) for file in run.files)
    unit, target = str(result.get("unit") or ""), str(result.get("target") or "")
    rounds = tuple(sorted({int(row["round"]) for row in run.rounds if number(row.get("round")) is not None}))
    # Round 0 is the score before any training: it is in the chart, but nobody contributes to it.
    trained_rounds = tuple(round_ for round_ in rounds if round_ > 0)
    cars = car_rows(run.clients, result, trained_rounds)
    lines = error_series(run, cars, rounds)
    error_chart = svg_line_chart(
        lines,
        title=f"Error of each round{f' [{unit}]' if unit else ''}",
        x_label="round",
        y_label=f"RMSE [{unit}]" if unit else "RMSE",
    )
    loss_chart = svg_line_chart(
        [Series("training loss", points(run.rounds, "train_loss"))],
        title="Training loss of each round",
        x_label="round",
        y_label="training loss",
    )
    return RunView(
        unit=unit,
        target=target,
        # The charts escape every text that they take in.
        error_chart=Markup(error_chart),  # noqa: S704
        loss_chart=Markup(loss_chart),  # noqa: S704
        chart_legend=tuple(line.name for line in lines),
        cars=cars,
        excluded=excluded(result, run.clients),
        warnings=tuple(entry for entry in result.get("warnings") or [] if isinstance(entry, dict)),
        rounds=trained_rounds,
        plots=tuple(file.href for file, may in files if may and file.name.endswith(".png")),
        failed_tasks=tuple(task for task in run.tasks if task.get("log_tail")),
        newest=run.rounds[-1] if run.rounds else None,
        files=files,
    )


def points(rows: Sequence[Row], field: str, rounds: Sequence[int] = ()) -> list[tuple[float, float | None]]:
    """(round, value) of rows in the order of rounds; None for each of `rounds` that has no row."""
    found: dict[float, float | None] = dict.fromkeys(map(float, rounds))
    for row in rows:
        if (x := number(row.get("round"))) is not None:
            found[x] = number(row.get(field))
    return sorted(found.items())


def car_key(row: Row) -> str:
    """What identifies a car: the partition-id, which outlives Flower's node id."""
    partition = row.get("partition_id")
    return str(partition) if partition is not None else f"node {row.get('node_id')}"


def car_rows(clients: Sequence[Row], result: Row, rounds: Sequence[int]) -> tuple[CarRow, ...]:
    """One row a car: its final score once there is one, else its newest."""
    by_car: dict[str, list[Row]] = {}
    for row in clients:
        by_car.setdefault(car_key(row), []).append(row)
    final = {car_key(car): car for car in result.get("cars") or [] if isinstance(car, dict)}
    cars: list[CarRow] = []
    for index, key in enumerate(sorted({*by_car, *final}, key=sort_key)):
        own = by_car.get(key, [])
        ending = final.get(key, {})
        asked = {number(row.get("round")): row.get("ok") is True for row in own if row.get("phase") in (None, "train")}
        trained = {round_ for round_, ok in asked.items() if ok}
        contributed = ending.get("rounds_contributed")
        partition = number(ending.get("partition_id", own[-1].get("partition_id") if own else None))
        name = str(newest_value([ending, *reversed(own)], "node_name") or "")
        cars.append(
            CarRow(
                label=f"car {key}" + (f" ({name})" if name else ""),
                partition_id=None if partition is None else int(partition),
                node_name=name,
                rmse=number(newest_value([ending, *reversed(own)], "rmse")),
                mae=number(newest_value([ending, *reversed(own)], "mae")),
                r2=number(newest_value([ending, *reversed(own)], "r2")),
                personal_rmse=number(ending.get("personal_rmse")),
                personal_kept=ending.get("personal_kept") is True,
                rows=number(newest_value([ending, *reversed(own)], "rows")),
                windows_train=number(newest_value([ending, *reversed(own)], "windows_train")),
                windows_test=number(newest_value([ending, *reversed(own)], "windows_test")),
                seconds=number(ending.get("seconds")) or sum(number(row.get("seconds")) or 0.0 for row in own),
                rounds_contributed=contributed if isinstance(contributed, int) else len(trained),
                cells=tuple("yes" if r in trained else "no" if r in asked else "none" for r in rounds),
                colour=(index + 1) % 8,
            )
        )
    return tuple(cars)


def sort_key(key: str) -> tuple[int, int, str]:
    """Partition-ids by number, everything else after them."""
    return (0, int(key), "") if key.isdigit() else (1, 0, key)


def newest_value(rows: Sequence[Row], field: str) -> Any:
    """The first value of a field that is not missing."""
    return next((row[field] for row in rows if row.get(field) is not None), None)


def error_series(run: RunDetailAnswer, cars: Sequence[CarRow], rounds: Sequence[int]) -> list[Series]:
    """The fleet's line, and one for each car when there are few enough to tell apart."""
    lines = [Series("all cars", points(run.rounds, "rmse"))]
    if 1 < len(cars) < CARS_IN_CHART:
        for car in cars:
            key = str(car.partition_id) if car.partition_id is not None else car.label.removeprefix("car ")
            scored = [row for row in run.clients if car_key(row) == key and row.get("rmse") is not None]
            if scored:
                lines.append(Series(car.label, points(scored, "rmse", rounds)))
    return lines


def excluded(result: Row, clients: Sequence[Row]) -> tuple[Row, ...]:
    """Who was left out and why: from the result, or before the end from the cars' own answers."""
    listed = result.get("excluded")
    if isinstance(listed, list):
        return tuple(entry for entry in listed if isinstance(entry, dict))
    found: dict[tuple[str, str], Row] = {}
    for row in clients:
        if row.get("ok") is False:
            entry = found.setdefault(
                (car_key(row), str(row.get("error_code"))),
                {
                    "partition_id": row.get("partition_id"),
                    "node_name": row.get("node_name"),
                    "error_code": row.get("error_code"),
                    "reason": row.get("error_reason"),
                    "rounds": [],
                },
            )
            if row.get("round") not in entry["rounds"]:
                entry["rounds"].append(row.get("round"))
    return tuple(found.values())
