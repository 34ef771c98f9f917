"""A version of a model in MLflow: its run with settings and metrics by round, and the model itself with a signature.

The model goes there as ONNX, so that what MLflow serves needs nothing of this app. Needs the packages of
`fleven[mlflow]`. Must not import torch, FastAPI or typer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fleven.predict import onnx_export
from fleven.predict.model import Model
from fleven.server.errors import ServerError
from fleven.server.models.model import ModelVersion, card

ARTIFACT = "model"
LONGEST_VALUE = 500
"""Of a parameter: older MLflow servers take no more."""
ROUND_METRICS = ("rmse", "mae", "r2", "train_loss", "nodes", "windows", "seconds", "bytes_down", "bytes_up")
FINAL_METRICS = ("rmse", "mae", "r2")


def write(
    model: ModelVersion, file: Path, rounds: Sequence[Mapping[str, Any]], tracking_uri: str, register_as: str = ""
) -> str:
    """Write a version to a tracking server; return the id of MLflow's run.

    Args:
        model: the version.
        file: its bundle.
        rounds: rows of the run's rounds.json; none for an imported model.
        tracking_uri: of the server, such as `http://127.0.0.1:5000`, or of a database.
        register_as: name in MLflow's own registry; "" registers nothing.

    Raises:
        ImportError: mlflow or onnx is missing.
        FlevenError: the file is no model that can predict.
        ServerError: the tracking server does not take it.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    used = Model(file)
    mlflow.set_tracking_uri(tracking_uri)
    try:
        mlflow.set_experiment(model.experiment)
        with mlflow.start_run(run_name=model.name, tags=tags(model)) as run:
            mlflow.log_params(parameters(model))
            for name, value, step in metrics(model, rounds):
                mlflow.log_metric(name, value, step=step)
            mlflow.log_text(card(model), "README.md")
            mlflow.log_artifact(str(file), "bundle")
            mlflow.onnx.log_model(
                onnx_export.graph(used),
                name=ARTIFACT,
                signature=signature(used),
                registered_model_name=register_as or None,
            )
            return str(run.info.run_id)
    except MlflowException as error:
        first = str(error).strip().splitlines()[0][:300]
        raise ServerError(f"{tracking_uri}: {first}", code="mlflow-failed") from None


def tags(model: ModelVersion) -> dict[str, str]:
    """Return what MLflow's run is found by."""
    lineage = model.facts.get("lineage") or {}
    found = {
        "version": model.version,
        "standing": model.standing,
        "sha256": model.sha256,
        "run": model.run_id,
        "schedule": lineage.get("schedule"),
        "flower_run_id": lineage.get("flower_run_id"),
        "promotion": model.why,
    }
    return {f"fleven.{name}": str(value) for name, value in found.items() if value not in (None, "")}


def parameters(model: ModelVersion) -> dict[str, str]:
    """Return the run's configuration as MLflow takes it."""
    config = model.facts.get("config") or {}
    return {str(key): str(value)[:LONGEST_VALUE] for key, value in config.items() if str(value)}


def metrics(model: ModelVersion, rounds: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float, int]]:
    """Yield (name, value, step): of each round, then of the model as it is, at the last step."""
    last = 0
    for row in rounds:
        number = row.get("round")
        if isinstance(number, bool) or not isinstance(number, int):
            continue
        last = max(last, number)
        yield from ((f"round_{name}", float(row[name]), number) for name in ROUND_METRICS if _finite(row.get(name)))
    for kind in ("global", "personal", "champion"):
        figures = model.facts.get(kind) or {}
        yield from (
            (f"{kind}_{name}", float(figures[name]), last) for name in FINAL_METRICS if _finite(figures.get(name))
        )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def signature(model: Model) -> Any:
    """Return what goes in and comes out, as MLflow writes it: readings and predictions in physical units."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    settings, kind = model.settings, np.dtype(np.float32)
    shape = (-1, settings.sequence_length, len(model.features))
    return ModelSignature(
        inputs=Schema([TensorSpec(kind, shape, "readings")]),
        outputs=Schema([TensorSpec(kind, (-1, settings.prediction_length), "predicted")]),
    )
