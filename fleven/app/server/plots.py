"""Plots of a finished run, as PNG files. matplotlib comes with the server, not with the car."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..files import write_atomically

Pairs = dict[int, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
#: More cars than this would make a legend that hides the curves.
LEGEND_CARS = 20


def _figure(width: float = 8.0, height: float = 5.0) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    with write_atomically(path) as stream:
        figure.savefig(stream, format="png", dpi=120)


def error_by_round(
    path: Path, rounds: list[dict[str, Any]], clients: list[dict[str, Any]], target: str, unit: str
) -> None:
    """Draw the fleet's and each car's RMSE against the round."""
    figure = _figure()
    axes = figure.subplots()
    evaluated = [row for row in clients if row["phase"] == "evaluate" and row.get("rmse") is not None]
    partitions = sorted({row["partition_id"] for row in evaluated})
    colours = _colours(len(partitions))
    for partition, colour in zip(partitions, colours, strict=True):
        points = sorted((row["round"], row["rmse"]) for row in evaluated if row["partition_id"] == partition)
        label = f"car {partition}" if len(partitions) <= LEGEND_CARS else None
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1, alpha=0.7, label=label)
    fleet = [(row["round"], row["rmse"]) for row in rounds if row.get("rmse") is not None]
    if fleet:
        axes.plot(*zip(*fleet, strict=True), color="black", linewidth=2.5, marker="o", markersize=4, label="all cars")
    axes.set_xlabel("round (0: before training)")
    axes.set_ylabel(f"RMSE of {target} on held-out windows [{unit or 'its unit'}]")
    axes.set_title("Error by round")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small", ncols=2)
    _save(figure, path)


def predicted_against_true(path: Path, pairs: Pairs, target: str, unit: str, own: Pairs | None = None) -> None:
    """Draw predicted against true values of the samples that the cars shared, by partition id.

    own: the same by the cars' own models, drawn beside them where there are any.
    """
    figure = _figure(12.5 if own else 6.5, 6.5)
    panels = figure.subplots(1, 2, sharex=True, sharey=True) if own else [figure.subplots()]
    titles = ("Predicted against true, held-out windows", "The same by each car's own model")
    for axes, title, samples in zip(panels, titles, (pairs, own or {}), strict=False):
        _scatter(axes, samples, target, unit)
        axes.set_title(title)
    _save(figure, path)


def personal_by_car(path: Path, cars: list[dict[str, Any]], target: str, unit: str) -> None:
    """Draw the RMSE of the global model beside that of each car's own, on the same held-out windows."""
    judged = [row for row in cars if row["rmse"] is not None and row["personal_rmse"] is not None]
    figure = _figure(max(6.5, 2.0 + 0.45 * len(judged)))
    axes = figure.subplots()
    places = np.arange(len(judged))
    axes.bar(places - 0.2, [row["rmse"] for row in judged], width=0.4, color="tab:grey", label="global model")
    bars = axes.bar(places + 0.2, [row["personal_rmse"] for row in judged], width=0.4, color="tab:blue")
    for bar, row in zip(bars, judged, strict=True):
        if not row["personal_kept"]:
            bar.set_hatch("//")
            bar.set_alpha(0.4)
    kept = sum(bool(row["personal_kept"]) for row in judged)
    bars.set_label(f"the car's own ({kept} of {len(judged)} kept one, the others are hatched)")
    axes.set_xticks(places, [row["node_name"] or f"car {row['partition_id']}" for row in judged], rotation=60)
    axes.set_ylabel(f"RMSE of {target} on held-out windows [{unit or 'its unit'}]")
    axes.set_title("Global model and each car's own")
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize="small")
    _save(figure, path)


def _scatter(axes: Any, pairs: Pairs, target: str, unit: str) -> None:
    for (partition, (true, predicted)), colour in zip(sorted(pairs.items()), _colours(len(pairs)), strict=True):
        label = f"car {partition}" if len(pairs) <= LEGEND_CARS else None
        axes.scatter(true, predicted, s=10, alpha=0.5, color=colour, edgecolors="none", label=label)
    everything = np.concatenate([part for pair in pairs.values() for part in pair])
    low, high = float(everything.min()), float(everything.max())
    axes.plot([low, high], [low, high], color="black", linewidth=1, linestyle="--", label="perfect")
    shown = f"[{unit}]" if unit else ""
    axes.set_xlabel(f"true {target} {shown}")
    axes.set_ylabel(f"predicted {target} {shown}")
    axes.set_aspect("equal", adjustable="box")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)


def _colours(count: int) -> list[Any]:
    from matplotlib import colormaps

    palette = colormaps["tab10"] if count <= 10 else colormaps["turbo"].resampled(count)
    return [palette(i) for i in range(count)]
