"""A version goes to a real MLflow server, and its model predicts from there as it does here."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from agent_harness import wait_for
from tiny_federation import free_port

from fleven.app.model import build, weights_of
from fleven.app.server import bundle
from fleven.app.settings import parse
from fleven.app.trips.windows import Scaler
from fleven.server.errors import ServerError
from fleven.server.models.model import Alias, ModelVersion, Naming

# MLflow's server is large, and only this test needs it: pip install mlflow.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("mlflow") is None or find_spec("flask") is None, reason="needs MLflow with its server"
    ),
    pytest.mark.filterwarnings("ignore"),  # MLflow's own
]
ROUNDS = [{"round": 0, "rmse": 30.0}, {"round": 1, "rmse": 12.5, "train_loss": 0.5}, {"round": 2, "rmse": 11.0}]


@pytest.fixture
def tracking(tmp_path: Path) -> Iterator[str]:
    """The address of an MLflow server of the test's own."""
    port = free_port()
    stores = ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", str(tmp_path / "a")]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, *stores], stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"

    def healthy() -> bool:
        with suppress(OSError):
            return urllib.request.urlopen(f"{url}/health", timeout=5).status == 200
        return False

    try:
        wait_for("MLflow answers", healthy, 120, lambda: (tmp_path / "log").read_text()[-3_000:])
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def version(path: Path) -> ModelVersion:
    settings = parse({"sequence-length": 7, "hidden-size": 5})
    scaler = Scaler(np.array([2000.0, 20.0, 40.0, 50.0]), np.array([900.0, 9.0, 20.0, 25.0]))
    bundle.save(path, weights_of(build(settings)), scaler, settings, {"experiment": "night"})
    facts = {
        "config": settings.as_config(), "global": {"rmse": 11.0, "r2": 0.8}, "personal": {"rmse": 10.0, "r2": None},
        "lineage": {"schedule": "nightly"}, "promotion": {"message": "the first"},
    }  # fmt: skip
    made = datetime(2026, 5, 4, tzinfo=UTC)
    return ModelVersion(1, "night", 3, 7, made, "f", "s" * 64, facts, (Naming(Alias.CHAMPION, made, ""),))


def test_a_version_is_written_with_settings_metrics_by_round_and_a_model_that_predicts(
    tracking: str, tmp_path: Path
) -> None:
    import mlflow

    from fleven.server.models import mlflow_export

    file = tmp_path / "m.safetensors"
    run_id = mlflow_export.write(version(file), file, ROUNDS, tracking, "speed")
    client = mlflow.MlflowClient(tracking)
    run = client.get_run(run_id)
    assert client.get_experiment(run.info.experiment_id).name == "night"
    assert run.data.params["sequence-length"] == "7"
    assert (run.data.tags["fleven.standing"], run.data.tags["fleven.schedule"]) == ("champion", "nightly")
    history = [(metric.step, metric.value) for metric in client.get_metric_history(run_id, "round_rmse")]
    assert history == [(0, 30.0), (1, 12.5), (2, 11.0)]
    assert (run.data.metrics["global_rmse"], run.data.metrics["personal_rmse"]) == (11.0, 10.0)
    assert "personal_r2" not in run.data.metrics
    assert [found.path for found in client.list_artifacts(run_id, "bundle")] == ["bundle/m.safetensors"]
    assert [str(found.version) for found in client.search_model_versions("name='speed'")] == ["1"]

    loaded = mlflow.pyfunc.load_model("models:/speed/1")
    (spec,) = loaded.metadata.signature.inputs.inputs
    assert (spec.name, spec.shape) == ("readings", (-1, 7, 3))
    rows = np.random.default_rng(2).normal([2000.0, 20.0, 40.0], [900.0, 9.0, 20.0], (20, 3)).astype(np.float32)
    windows = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(rows, 7, axis=0).transpose(0, 2, 1))
    predicted = loaded.predict({"readings": windows})["predicted"]
    np.testing.assert_allclose(predicted, bundle.Predictor(file).predict(rows), atol=25 * 1e-5)


def test_a_server_that_does_not_answer_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fleven.server.models import mlflow_export

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    file = tmp_path / "m.safetensors"
    with pytest.raises(ServerError, match=r"http://127\.0\.0\.1:1: "):
        mlflow_export.write(version(file), file, [], "http://127.0.0.1:1")
