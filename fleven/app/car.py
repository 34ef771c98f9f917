"""What a car does with an instruction, from its files to its answer. Flower's side is in client_app.py.

Must not import flwr's transport; torch only when there is something to train or evaluate.
"""

import logging
import platform
import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import __version__
from . import car_state
from .errors import AppError, Code
from .messages import Answer, Champion, Task
from .settings import Settings, parse
from .trips.cache import prepare_cached
from .trips.reader import folder_of
from .trips.windows import Prepared

if TYPE_CHECKING:
    from torch import nn

    from . import model
    from .model import Windows

log = logging.getLogger("fleven.app")


@dataclass(frozen=True)
class Node:
    """What the node says about itself in Flower's node configuration. node_id: Flower's, 0 where nobody gave one."""

    partition_id: int | None
    name: str
    config: dict[str, object]
    node_id: int = 0

    @classmethod
    def of(cls, node_config: Mapping[str, object], node_id: int = 0) -> "Node":
        """Read `partition-id` and `node-name`; anything that is not an integer is no partition."""
        partition = node_config.get("partition-id")
        whole = isinstance(partition, int) and not isinstance(partition, bool) and partition >= 0
        return cls(
            partition if whole else None,  # type: ignore[arg-type]  # an int by then
            str(node_config.get("node-name", "") or ""),
            dict(node_config),
            node_id,
        )


def perform(node: Node, run_config: Mapping[str, object], kind: str, task: Task | None) -> Answer:
    """Carry out one instruction; every error becomes a coded answer.

    kind: "query", "train" or "evaluate". task: None for a query.
    """
    started, started_cpu = time.monotonic(), time.process_time()
    answer = Answer(node.partition_id, node.name)
    try:
        settings = parse(run_config)
        answer.partition_id = settings.cars.get(node.node_id, node.partition_id)
        folder = folder_of(node.config, settings.data_base_path, answer.partition_id)
        prepared = prepare_cached(folder, settings)
        answer.skipped_files = list(prepared.skipped)
        answer.numbers |= _counts(prepared)
        if task is None:
            answer.statistics = prepared.statistics
            answer.versions = f"fleven={__version__} python={platform.python_version()} machine={platform.machine()}"
        else:
            _learn(answer, prepared, settings, task, folder, train=kind == "train")
    except AppError as error:
        answer.error_code, answer.error_reason = error.code, error.reason
        log.warning("event=task-refused kind=%s code=%s reason=%r", kind, error.code, error.reason)
    except Exception as error:  # the server must learn of every error; the traceback is in this car's log
        answer.error_code, answer.error_reason = Code.TASK_FAILED, f"{type(error).__name__}: {error}"
        log.exception("event=task-failed kind=%s", kind)
    if answer.error_code:
        answer.weights = answer.predictions = answer.personal_predictions = None
    answer.numbers |= {
        "seconds": time.monotonic() - started,
        "cpu-seconds": time.process_time() - started_cpu,
        "peak-rss-bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    return answer


def _counts(prepared: Prepared) -> dict[str, float]:
    return {
        "trips": prepared.trips,
        "rows": prepared.rows,
        "rows-dropped": prepared.rows_dropped,
        "gaps": prepared.gaps,
        "windows-train": len(prepared.train_starts),
        "windows-test": len(prepared.test_starts),
    }


def _learn(answer: Answer, prepared: Prepared, settings: Settings, task: Task, folder: Path, *, train: bool) -> None:
    from . import model

    began = time.monotonic()
    network = model.build(settings)
    head = _own_head(network, settings, task, folder)
    model.load_weights(network, np.concatenate([task.weights, head]))
    windows = model.Windows(prepared, task.scaler, settings)
    answer.numbers["threads"] = model.use_threads(settings, network, windows, prepared.train_starts)
    if task.evaluate:
        _evaluate(answer, network, windows, prepared, task)
        if task.champion is not None:
            _evaluate_champion(answer, prepared, settings, task.champion)
    if train:
        started = time.monotonic()
        seed = _seed(settings.seed, task.round, answer.partition_id)
        fit = model.train(
            network,
            windows,
            prepared.train_starts,
            settings,
            seed,
            proximal_mu=settings.proximal_mu,
            until=began + settings.local_seconds,
        )
        answer.weights = model.shared_weights(network, settings)
        if settings.heads_stay:
            _keep(car_state.place("head", settings, folder), model.weights_of(network)[task.weights.size :], task)
        answer.numbers |= {
            "train-loss": fit.loss,
            "gradient-norm": fit.gradient_norm,
            "steps": fit.steps,
            "windows-seen": fit.windows,
            "train-seconds": time.monotonic() - started,
        }
    elif task.personal:
        started = time.monotonic()
        _personalise(answer, network, windows, prepared, settings, task, folder)
        answer.numbers["personal-seconds"] = time.monotonic() - started


def _own_head(network: "nn.Module", settings: Settings, task: Task, folder: Path) -> "model.Vector":
    """Return the output layer that this car has kept, else the one that every network begins with; else nothing.

    A car that is new has no part in the others' layers: they never leave their cars.
    """
    from . import model

    values = model.own_values(network, settings)
    weights = model.weights_of(network)
    if values:
        path = car_state.place("head", settings, folder)
        kept = car_state.load(path, values, len(settings.columns))
        if kept is not None:
            return car_state.rescaled(kept.weights, settings.prediction_length, kept.scaler, task.scaler)
    return weights[weights.size - values :]


def _keep(path: Path, weights: "model.Vector", task: Task, **facts: object) -> None:
    car_state.save(path, car_state.Kept(weights, task.scaler, {"round": task.round} | facts))


def _personalise(
    answer: Answer,
    network: "nn.Module",
    windows: "Windows",
    prepared: Prepared,
    settings: Settings,
    task: Task,
    folder: Path,
) -> None:
    """Make this car's own model, keep it here, and state how well it predicts what was held out."""
    from . import model, personal

    start = model.weights_of(network)
    if settings.heads_stay:  # the network has been the car's own all along
        own = personal.Personal(start)
    else:

        def seed_of(part: int, epoch: int) -> int:
            return _seed(settings.seed, task.round, answer.partition_id, part, epoch)

        own = personal.fine_tune(network, windows, prepared.train_starts, task.scaler, settings, seed_of)
        model.load_weights(network, start if own.weights is None else own.weights)
    found = model.evaluate(network, windows, prepared.test_starts, task.scaler, task.pairs)
    answer.numbers |= {
        "personal-kept": int(own.weights is not None),
        "personal-epochs": own.epochs,
        "personal-squared-error": found.squared_error,
        "personal-absolute-error": found.absolute_error,
    }
    if task.pairs and not settings.heads_stay:
        answer.personal_predictions = found.predicted
    # What the car predicts with until its next run, with or without the server.
    _keep(car_state.place("global", settings, folder), start, task, settings=settings.as_config())
    path = car_state.place("personal", settings, folder)
    variant = car_state.variant(path, start)
    if own.weights is None:
        car_state.forget(path)  # that of an earlier run: the global model is better now
        car_state.forget(variant)
    else:
        for file in (path, variant):
            _keep(file, own.weights, task, settings=settings.as_config(), epochs=own.epochs, share=own.share)
        car_state.forget_old(path)


def _evaluate(answer: Answer, network: "nn.Module", windows: "Windows", prepared: Prepared, task: Task) -> None:
    from . import model

    started = time.monotonic()
    found = model.evaluate(network, windows, prepared.test_starts, task.scaler, task.pairs)
    answer.numbers |= {
        "values": found.values,
        "squared-error": found.squared_error,
        "absolute-error": found.absolute_error,
        "target-mean": found.target_mean,
        "target-deviation": found.target_deviation,
        "evaluate-seconds": time.monotonic() - started,
    }
    if task.pairs:
        answer.predictions = found.true, found.predicted


def _evaluate_champion(answer: Answer, prepared: Prepared, settings: Settings, champion: Champion) -> None:
    """State how well the model in use predicts what the new one was judged on."""
    from . import model

    started = time.monotonic()
    shape = {name: getattr(champion, name) for name in ("model_type", "hidden_size", "num_layers")}
    network = model.build(settings.model_copy(update=shape))
    model.load_weights(network, champion.weights)
    windows = model.Windows(prepared, champion.scaler, settings)
    found = model.evaluate(network, windows, prepared.test_starts, champion.scaler)
    answer.numbers |= {
        "champion-squared-error": found.squared_error,
        "champion-absolute-error": found.absolute_error,
        "champion-seconds": time.monotonic() - started,
    }


def _seed(seed: int, number: int, partition_id: int | None, *further: int) -> int:
    """Return one seed for each run seed, round and car, so that a resumed run repeats an uninterrupted one.

    further: part and epoch of a personal model's training.
    """
    entropy = [seed, number, 0 if partition_id is None else partition_id + 1, *further]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0])
