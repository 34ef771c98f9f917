"""A model as ONNX, for programs that know nothing of this app: readings in physical units in, predictions out.

The graph is built from the parameters as NumPy has them, so that neither torch nor its exporter is needed, and is held
against this package's own arithmetic before anybody gets it. Needs the packages of `fleven[onnx]`. Must not import
torch, flwr or pandas.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fleven.data.errors import OutputError, Problem
from fleven.predict.model import Model

OPSET = 17
IR_VERSION = 8
"""Old enough for the runtimes of years ago, and all that is needed here is in it."""
LARGEST_DIFFERENCE = 1e-5
"""In standard deviations of the target, over windows of readings around the mean."""
TRIED_WINDOWS = 64
GATES = (0, 3, 1, 2)
"""ONNX wants input, output, forget, cell; torch has input, forget, cell, output."""
Floats = npt.NDArray[np.float32]


def write(source: Path, target: Path) -> float:
    """Write a bundle as ONNX; return by how much the two differ, in standard deviations of the target.

    Raises:
        ImportError: onnx or onnxruntime is missing.
        InputError: the source is no model that can predict.
        OutputError: it cannot be written, or it predicts something else.
    """
    import onnx
    import onnxruntime

    model = Model(source)
    made = graph(model)
    onnx.checker.check_model(made, full_check=True)
    content = made.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    scaler, settings = model.scaler, model.settings
    random = np.random.default_rng(0).standard_normal((TRIED_WINDOWS, settings.sequence_length, len(model.features)))
    windows = (scaler.mean[:-1] + random * scaler.std[:-1]).astype(np.float32)
    (predicted,) = session.run(None, {"readings": windows})
    difference = float(np.abs(predicted - model.predict(windows)).max() / scaler.std[-1])
    if not difference <= LARGEST_DIFFERENCE:
        said = f"as ONNX it predicts something else, by {difference:.1e} standard deviations of {model.target}"
        raise OutputError(Problem(str(target), "", said))
    try:
        target.write_bytes(content)
    except OSError as error:
        raise OutputError(Problem(str(target), "", error.strerror or str(error))) from None
    return difference


def graph(model: Model) -> Any:
    """Return the model as onnx.ModelProto.

    Its input `readings` is [batch, sequence, features] as read, its output `predicted` [batch, predictions] in the
    target's unit.
    """
    from onnx import TensorProto, helper, numpy_helper

    settings, scaler = model.settings, model.scaler
    nodes: list[Any] = []
    constants: dict[str, npt.NDArray[Any]] = {
        "mean": scaler.mean[:-1].astype(np.float32),
        "deviation": scaler.std[:-1].astype(np.float32),
        "target_mean": scaler.mean[-1:].astype(np.float32),
        "target_deviation": scaler.std[-1:].astype(np.float32),
    }

    def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    at = add("Div", [add("Sub", ["readings", "mean"], "centred"), "deviation"], "scaled")
    if settings.model_type == "lstm":
        at = add("Transpose", [at], "steps", perm=[1, 0, 2])
        constants |= {"first": np.array([0]), "second": np.array([1])}
        for number in range(settings.num_layers):
            constants |= _lstm(model.parameters, number, settings.hidden_size)
            outputs, last = f"outputs_{number}", f"last_{number}"
            given = [at, *(f"{kind}_{number}" for kind in ("W", "R", "B"))]
            nodes.append(helper.make_node("LSTM", given, [outputs, last], hidden_size=settings.hidden_size))
            at = add("Squeeze", [outputs, "second"], f"sequence_{number}")
        at = add("Squeeze", [last, "first"], "state")
        dense = ["head"]
    else:
        at = add("Flatten", [at], "flat", axis=1)
        dense = [f"layers.{1 + 3 * number}" for number in range(settings.num_layers + 1)]
    for number, name in enumerate(dense):
        constants |= {f"{name}.{kind}": model.parameters[f"{name}.{kind}"] for kind in ("weight", "bias")}
        at = add("Gemm", [at, f"{name}.weight", f"{name}.bias"], f"dense_{number}", transB=1)
        if number + 1 < len(dense):
            at = add("Relu", [at], f"relu_{number}")
    add("Add", [add("Mul", [at, "target_deviation"], "unscaled"), "target_mean"], "predicted")
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "fleven",
            [_values(helper, TensorProto, "readings", ["batch", settings.sequence_length, len(model.features)])],
            [_values(helper, TensorProto, "predicted", ["batch", settings.prediction_length])],
            [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="fleven",
    )
    helper.set_model_props(made, {"features": ",".join(model.features), "target": model.target, "unit": model.unit})
    return made


def _values(helper: Any, kinds: Any, name: str, shape: list[str | int]) -> Any:
    return helper.make_tensor_value_info(name, kinds.FLOAT, shape)


def _lstm(parameters: dict[str, Floats], number: int, hidden: int) -> dict[str, Floats]:
    """Return the parameters of one layer in ONNX's order of gates, with its dimension of directions."""

    def ordered(name: str) -> Floats:
        values = parameters[f"lstm.{name}_l{number}"]
        parts = [values[gate * hidden : (gate + 1) * hidden] for gate in GATES]
        return np.concatenate(parts)[np.newaxis]

    return {
        f"W_{number}": ordered("weight_ih"),
        f"R_{number}": ordered("weight_hh"),
        f"B_{number}": np.concatenate([ordered("bias_ih"), ordered("bias_hh")], axis=1),
    }
