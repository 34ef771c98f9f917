"""Whether cars can train on what an import wrote: their own code reads it back and counts the windows.

The app's modules that do so are imported by the function. Must not import torch or flwr.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from fleven.data.layout import client_folders

# An import that loses more than this share of the rows is likely to have misunderstood the file.
_MUCH: Final = 0.2
# Lines of one reading each lose nothing when they become rows.
_NO_LOSS: Final = ("one-reading",)


def examine(folder: Path, rows: dict[str, Any]) -> dict[str, Any]:
    """Return whether every client can train with the app's default settings, and what each has.

    `rows` is the manifest's account of rows. `training.clients` has for each client its usable rows and windows, or the
    reason (`code`, `problem`) that the car would answer with. `training.missing` are columns of the default target and
    features that some client lacks. `warnings` say in words what an operator must know before training.
    """
    from fleven.app.errors import Code, DataError
    from fleven.app.settings import Settings
    from fleven.app.trips.windows import prepare

    settings = Settings()
    clients: list[dict[str, Any]] = []
    missing: set[str] = set()
    for number, path in client_folders(folder).items():
        try:
            prepared = prepare(path, settings)
        except DataError as error:
            problem = error.message.replace(f"{path}/", "").replace(str(path), path.name)
            if error.code == Code.COLUMN_MISSING:
                missing |= set(settings.columns) - _columns_of(path)
            clients.append(
                {
                    "client": number,
                    "trainable": False,
                    "code": error.code.value,
                    "problem": problem,
                    "usable_rows": 0,
                    "train_windows": 0,
                    "test_windows": 0,
                    "files_skipped": [],
                }
            )
            continue
        clients.append(
            {
                "client": number,
                "trainable": True,
                "code": None,
                "problem": None,
                "usable_rows": prepared.rows,
                "train_windows": len(prepared.train_starts),
                "test_windows": len(prepared.test_starts),
                "files_skipped": list(prepared.skipped),
            }
        )
    training = {
        "target": settings.target_column,
        "features": list(settings.feature_columns),
        "readings_a_window": settings.span,
        "missing": [name for name in settings.columns if name in missing],
        "clients": clients,
    }
    return {
        "trainable": bool(clients) and all(each["trainable"] for each in clients),
        "training": training,
        "warnings": _warnings(training) + _losses(rows),
    }


def _columns_of(folder: Path) -> set[str]:
    """Return the columns that every trip of a client has."""
    import pandas as pd
    import pyarrow.parquet as pq

    found: list[set[str]] = [
        set(pq.read_schema(path).names) if path.suffix == ".parquet" else set(pd.read_csv(path, nrows=0).columns)
        for path in folder.iterdir()
    ]
    return set.intersection(*found) if found else set()


def _warnings(training: dict[str, Any]) -> list[str]:
    """Return which cars cannot train on an import, and why."""
    lines: list[str] = []
    bad = [each for each in training["clients"] if not each["trainable"]]
    if training["missing"]:
        there = [name for name in training["features"] if name not in training["missing"]]
        hint = f"; --set feature-columns={','.join(there)} trains on the others" if there else ""
        if training["target"] in training["missing"]:
            hint = ""
        lines.append(f"the app's default columns are not all there: {', '.join(training['missing'])}{hint}")
    elif bad:
        lines += [f"client_{each['client']}: {each['problem']}" for each in bad[:5]]
        lines += [f"and {len(bad) - 5} more clients"] if len(bad) > 5 else []
    if bad:
        some = "no car" if len(bad) == len(training["clients"]) else f"{len(bad)} of {len(training['clients'])} cars"
        cannot = "can" if some == "no car" else "cannot"
        lines.insert(0, f"{some} {cannot} train on this with the app's default settings")
    skipped = sum(len(each["files_skipped"]) for each in training["clients"])
    if skipped:
        lines.append(f"{skipped} trips lack what the app's default settings ask for: cars would leave them out")
    return lines


def _losses(rows: dict[str, Any]) -> list[str]:
    lines = []
    for why, count in rows["dropped"].items():
        if count > _MUCH * rows["read"] and why not in _NO_LOSS:
            what = "merged with a row of the same time" if why == "duplicate-time" else f"left out ({why})"
            lines.append(f"{count:,} of {rows['read']:,} rows ({count / rows['read']:.0%}) were {what}")
    return lines
