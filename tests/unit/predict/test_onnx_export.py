"""A model as ONNX predicts what the app's own network predicts, in physical units."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from fleven.app.model import build, weights_of
from fleven.app.server import bundle
from fleven.app.settings import parse
from fleven.app.trips.windows import Scaler
from fleven.data.errors import InputError, OutputError
from fleven.predict import onnx_export
from fleven.predict.model import Model


def made(path: Path, **changes: Any) -> Path:
    settings = parse({"sequence-length": 7, "hidden-size": 5} | {k.replace("_", "-"): v for k, v in changes.items()})
    scaler = Scaler(np.array([2000.0, 20.0, 40.0, 50.0]), np.array([900.0, 9.0, 20.0, 25.0]))
    bundle.save(path, weights_of(build(settings)), scaler, settings, {"experiment": "night"})
    return path


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_layers": 3}, {"prediction_length": 4}, {"model_type": "mlp"}, {"model_type": "mlp", "num_layers": 2}],
)
def test_it_predicts_what_torch_predicts(tmp_path: Path, changes: dict[str, Any]) -> None:
    source, target = made(tmp_path / "m.safetensors", **changes), tmp_path / "m.onnx"
    assert onnx_export.write(source, target) <= 1e-5
    predictor = bundle.Predictor(source)
    rows = np.random.default_rng(2).normal([2000.0, 20.0, 40.0], [900.0, 9.0, 20.0], (30, 3)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(rows, 7, axis=0).transpose(0, 2, 1)
    (found,) = onnxruntime.InferenceSession(target).run(None, {"readings": np.ascontiguousarray(windows)})
    np.testing.assert_allclose(found, predictor.predict(rows), atol=25 * 1e-5)
    props = {entry.key: entry.value for entry in onnx.load(target).metadata_props}
    assert props == {
        "features": "engine_rpm,mass_air_flow,calculated_load_value", "target": "vehicle_speed", "unit": "km/h",
    }  # fmt: skip


def test_what_would_predict_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = made(tmp_path / "m.safetensors")
    predict = Model.predict
    monkeypatch.setattr(Model, "predict", lambda self, windows: predict(self, windows) + 0.01)
    with pytest.raises(OutputError, match="as ONNX it predicts something else"):
        onnx_export.write(source, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(InputError):
        onnx_export.write(tmp_path / "junk", tmp_path / "m.onnx")
    with pytest.raises(OutputError, match="No such file"):
        onnx_export.write(made(tmp_path / "m.safetensors"), tmp_path / "none" / "m.onnx")
