"""Plain values about models, and what their names mean. Pure. Must not import SQLAlchemy, FastAPI or typer."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from fleven.server.errors import UsageError

REFERENCE = re.compile(r"(?P<experiment>[A-Za-z0-9][A-Za-z0-9._-]{0,99})(?:@(?P<which>[a-z]+|[0-9]{1,9}))?")
FIGURES = ("rmse", "mae", "r2")
#: What a card says of the data.
DATA = (("cars", "cars"), ("rows", "rows"), ("windows_train", "windows to train on"), ("windows_test", "held out"))


class Alias(StrEnum):
    """Names that move from version to version; values never change."""

    CHAMPION = "champion"
    """The model that is to be used."""
    PREVIOUS = "previous"
    """The champion before it, to which a rollback returns."""


@dataclass(frozen=True, slots=True)
class Naming:
    """A name that a version has now: since when, and the reason with which the champion was chosen at that moment."""

    alias: Alias
    since: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of an experiment's model.

    Attributes:
        experiment: the runs that belong together.
        version: counts from 1; a number is never given twice.
        run_id: the run that made it; None for one that was imported.
        made_at: when it was taken in.
        file: below the registry's folder.
        sha256: of the file.
        facts: `global`, `personal` (figures), `data`, `config`, `lineage`, `target`, `unit`, `features`.
        names: what it is called now.
    """

    id: int
    experiment: str
    version: int
    run_id: int | None
    made_at: datetime
    file: str
    sha256: str
    facts: Mapping[str, Any]
    names: tuple[Naming, ...] = ()

    @property
    def aliases(self) -> tuple[Alias, ...]:
        """What it is called now."""
        return tuple(name.alias for name in self.names)

    @property
    def standing(self) -> str:
        """What it is: `champion`, `previous`, or `candidate`."""
        return ", ".join(self.aliases) or "candidate"

    @property
    def why(self) -> str:
        """Why it was promoted, or was not, at the end of its run; "" where nobody asked."""
        return str((self.facts.get("promotion") or {}).get("message") or "")

    @property
    def names_told(self) -> list[str]:
        """Each of its names in one line: since when, and why, unless its run's end was the reason."""
        return [_told(name, self.why) for name in self.names]

    @property
    def name(self) -> str:
        """What commands call it."""
        return f"{self.experiment}@{self.version}"


def _told(name: Naming, decided: str) -> str:
    """Say since when a version has a name, and why.

    decided: what was decided at the end of its run, which is told elsewhere.
    """
    since = f"{name.alias} since {name.since:%Y-%m-%d %H:%M}Z"
    if name.alias is Alias.PREVIOUS:
        return f"{since}, when another took its place" + (f": {name.reason}" if name.reason else "")
    if name.reason and name.reason == decided:
        return since
    return f"{since}, by hand: {name.reason or 'no reason was given'}"


@dataclass(frozen=True, slots=True)
class Reference:
    """What an operator names: an experiment, and a version or an alias of it; the champion without either."""

    experiment: str
    version: int | None = None
    alias: Alias | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `EXPERIMENT[@VERSION|@ALIAS]`. Raises UsageError."""
        found = REFERENCE.fullmatch(text)
        which = found["which"] if found else None
        if found is None or (which and not which.isdigit() and which not in list(Alias)):
            hint = "write EXPERIMENT@VERSION, EXPERIMENT@champion or EXPERIMENT@previous"
            raise UsageError(f"'{text}' names no model", hint=hint)
        if which is None:
            return cls(found["experiment"], alias=Alias.CHAMPION)
        return cls(found["experiment"], int(which)) if which.isdigit() else cls(found["experiment"], None, Alias(which))


def facts_of(result: Mapping[str, Any], resumed_from: str | None, schedule: str) -> dict[str, Any]:
    """Return what the registry keeps of a run's result.

    resumed_from: the checkpoint with which the run began.
    """
    cars = [car for car in result.get("cars") or [] if isinstance(car, Mapping)]
    return {
        "target": result.get("target"),
        "unit": result.get("unit"),
        "features": result.get("features") or [],
        "rounds": result.get("rounds"),
        "global": result.get("global") or {},
        "personal": result.get("personal"),
        "champion": result.get("champion"),
        "errors": {
            str(car["partition_id"]): float(car["rmse"])
            for car in cars
            if isinstance(car.get("partition_id"), int) and isinstance(car.get("rmse"), int | float)
        },
        "data": {
            "cars": len(cars),
            "rows": sum(int(car.get("rows") or 0) for car in cars),
            "windows_train": sum(int(car.get("windows_train") or 0) for car in cars),
            "windows_test": sum(int(car.get("windows_test") or 0) for car in cars),
            "partitions": [car.get("partition_id") for car in cars],
            "left_out": len(result.get("excluded") or []),
            "taken_with_care": len(result.get("warnings") or []),
        },
        "config": result.get("config") or {},
        "lineage": {"schedule": schedule, "flower_run_id": result.get("run_id"), "resumed_from": resumed_from},
    }


def differences(first: ModelVersion, second: ModelVersion) -> dict[str, Any]:
    """Return in what two versions differ: figures of both, and settings that are not the same."""
    pair = (first, second)
    configs = [_settings(one) for one in pair]
    keys = sorted(set(configs[0]) | set(configs[1]))
    return {
        "models": [one.name for one in pair],
        "global": {key: [(one.facts.get("global") or {}).get(key) for one in pair] for key in FIGURES},
        "personal": {key: [(one.facts.get("personal") or {}).get(key) for one in pair] for key in FIGURES},
        "data": {
            key: [(one.facts.get("data") or {}).get(key) for one in pair] for key in ("cars", "rows", "windows_test")
        },
        "config": {key: [c.get(key) for c in configs] for key in keys if configs[0].get(key) != configs[1].get(key)},
    }


def card(model: ModelVersion) -> str:
    """Return what a stranger should know before using the model, in Markdown."""
    facts = model.facts
    data, lineage, unit = facts.get("data") or {}, facts.get("lineage") or {}, facts.get("unit") or ""
    lines = [
        f"# {model.experiment}, version {model.version}",
        "",
        _wrapped(
            f"Predicts `{facts.get('target')}`{f' in {unit}' if unit else ''} from "
            f"{', '.join(f'`{name}`' for name in facts.get('features') or [])}."
        ),
        "",
        "| | RMSE | MAE | R² |",
        "|---|--:|--:|--:|",
        f"| global model | {_figures(facts.get('global'))} |",
    ]
    if facts.get("personal"):
        lines.append(f"| cars' own models | {_figures(facts['personal'])} |")
    compared = facts.get("champion")
    if compared and compared.get("rmse") is not None:
        against = (facts.get("promotion") or {}).get("champion") or "the champion at that time"
        lines.append(f"| {against}, on the same windows | {_figures(compared)} |")
    lines += [
        "",
        "Measured on windows that each car held out from training, pooled over all",
        "cars. A car that drives unlike these cars will see other errors.",
        "",
        "## Data",
        "",
        (", ".join(f"{data[key]} {words}" for key, words in DATA if data.get(key) is not None) or "Not known") + ".",
        "",
        "## Where it comes from",
        "",
        f"- made: {model.made_at:%Y-%m-%d %H:%M}Z, {facts.get('rounds')} rounds",
        f"- {_origin(model)}",
        f"- continued from: {lineage.get('resumed_from') or 'nothing, it started from scratch'}",
        *([_wrapped(f"- at the end of its run: {promotion_text(model)}")] if model.why else []),
        *(_wrapped(f"- {told}") for told in model.names_told),
        f"- SHA-256 of the model: `{model.sha256}`",
        "",
        "## Configuration",
        "",
        "| key | value |",
        "|---|---|",
        *(f"| `{key}` | {_setting(value)} |" for key, value in sorted(_settings(model).items())),
        "",
    ]
    return "\n".join(lines)


def promotion_text(model: ModelVersion) -> str:
    """Return what was decided on a model at the end of its run, in one line; "" where nobody asked."""
    if not model.why:
        return ""
    promotion = model.facts["promotion"]
    return f"{'promoted' if promotion.get('promoted') else 'not promoted'} ({promotion.get('code')}): {model.why}"


def _wrapped(text: str) -> str:
    """Fold a line of Markdown to a terminal's width."""
    return textwrap.fill(text, 79, subsequent_indent="  " * text.startswith("- "), break_on_hyphens=False)


def _origin(model: ModelVersion) -> str:
    lineage = model.facts.get("lineage") or {}
    flower = f"Flower run {lineage.get('flower_run_id') or '-'}"
    if model.run_id is None:
        return f"imported from {lineage.get('imported_from') or '-'} ({flower} elsewhere)"
    return f"run: {model.run_id} of schedule {lineage.get('schedule') or '-'} ({flower})"


def _settings(model: ModelVersion) -> dict[str, Any]:
    """Return the run's configuration without whom it asked: Flower's ids, which say nothing to a person."""
    return {key: value for key, value in (model.facts.get("config") or {}).items() if key != "cars"}


def _setting(value: Any) -> str:
    """Return a value of the configuration for a table; of a file its name, as the folders are one server's own."""
    text = str(value)
    return f"`{text.rsplit('/', 1)[-1] if text.endswith(('.safetensors', '.pt')) else text}`" if text else ""


def _figures(score: Mapping[str, Any] | None) -> str:
    values = [(score or {}).get(key) for key in FIGURES]
    return " | ".join("-" if value is None else f"{value:.3f}" for value in values)
