"""Simulated SuperNodes and agents: they say to a server what real ones say, from one process and without learning.

A node has its own key, its own connection, and SuperNode's calls in SuperNode's order, by Flower's own code where that
can be called without SuperNode's threads; its waits are those of the shipped SuperNode. What it answers a task with is
made once by the app's own code and varied for each node.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.client.grpc_rere_client.node_auth_client_interceptor import NodeAuthClientInterceptor
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, node_pb2, run_pb2
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.supercore.grpc import create_channel
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    inflate_object_from_contents,
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supercore.interceptors import RuntimeVersionClientInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes

from fleven.app import car
from fleven.app.messages import Answer, Task, answer_record, read_task
from fleven.app.model import build, shared_weights
from fleven.app.settings import parse
from fleven.app.trips.windows import Scaler
from fleven_agent.reporting.pace import RUN_HEARTBEAT_SECONDS, USUAL
from fleven_agent.warm.heartbeats import due_seconds
from fleven_agent.warm.polling import Pace

SUPERNODE_WAIT_SECONDS = 3.0
"""SuperNode's own wait between two pulls."""
HEARTBEAT_SHARE, HEARTBEAT_SPREAD, HEARTBEAT_TIMEOUT_SECONDS = 0.8, 0.1, 5.0
"""flwr.common.constant: HEARTBEAT_BASE_MULTIPLIER, HEARTBEAT_RANDOM_RANGE, HEARTBEAT_CALL_TIMEOUT."""
WORKERS = 16
Answering = Callable[["SimulatedNode", Message], RecordDict]


class OurAnswers:
    """Answers of the shipped app, as a car with these trips gives them."""

    def __init__(self, trips: Path, run_config: Mapping[str, Any]) -> None:
        self._settings = parse(dict(run_config))
        node = car.Node(0, "simulated", {"partition-id": 0, "data-path": str(trips)})
        perform = partial(car.perform, node, run_config)
        query = perform("query", None)
        assert query.statistics is not None, query.error_reason
        weights = shared_weights(build(self._settings), self._settings)
        task = Task(1, True, weights, Scaler.of(query.statistics), self._settings.update_compression)
        self._templates = {"query": query, "train": perform("train", task), "evaluate": perform("evaluate", task)}
        assert all(answer.ok for answer in self._templates.values())

    def __call__(self, node: SimulatedNode, message: Message) -> RecordDict:
        """Return the answer of one node to one message."""
        kind = message.metadata.message_type
        numbers = {**self._templates[kind].numbers, "seconds": 0.0}
        named = replace(self._templates[kind], partition_id=node.number, node_name=node.name, numbers=numbers)
        if kind == "query":
            return answer_record(named)
        task = read_task(message.content)
        if kind == "train":
            noise = np.random.default_rng((node.number, task.round)).normal(0, 1e-3, task.weights.size)
            named = replace(named, weights=task.weights + noise.astype(np.float32))
        return answer_record(_without_pairs(named, task), task.weights, task.compression)


def _without_pairs(answer: Answer, task: Task) -> Answer:
    return replace(answer, predictions=None, personal_predictions=None) if not task.pairs else answer


def stock_answer(node: SimulatedNode, message: Message) -> RecordDict:
    """Return what a ClientApp of Flower's documentation answers."""
    if message.metadata.message_type == "evaluate":
        return RecordDict({"metrics": MetricRecord({"num-examples": 100, "rmse": 10.0 + node.number})})
    arrays = message.content.array_records["arrays"].to_numpy_ndarrays()
    chance = np.random.default_rng(node.number)
    changed = [array + chance.normal(0, 1e-3, array.shape).astype(array.dtype) for array in arrays]
    return RecordDict({"arrays": ArrayRecord(changed), "metrics": MetricRecord({"num-examples": 100})})


@dataclass
class Tally:
    """What the nodes saw."""

    pulls: int = 0
    heartbeats: int = 0
    answers: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    late: int = 0
    """Turns that began more than a second after their time: the simulation itself could not keep up."""


class SimulatedNode:
    """One SuperNode, one call at a time.

    Args:
        number: its partition.
        address: of the Fleet API.
        certificates: whom it trusts; None without TLS.
        keys: private and public; None makes some and registers them.
    """

    def __init__(self, number: int, address: str, certificates: bytes | None = None, keys: Any = None) -> None:
        self.number, self.name = number, f"simulated-{number:05d}"
        private, public = keys or generate_key_pairs()
        self._key = public_key_to_bytes(public)
        self._registers = keys is None
        self._channel = create_channel(
            server_address=address,
            insecure=certificates is None,
            root_certificates=certificates,
            interceptors=[RuntimeVersionClientInterceptor("SuperNode"), NodeAuthClientInterceptor(private, public)],
        )
        self._stub = FleetStub(self._channel)
        self._node = node_pb2.Node()
        self._runs: set[int] = set()

    def begin(self, heartbeat_seconds: float) -> None:
        """Register and report for work."""
        if self._registers:
            self._stub.RegisterNode(fleet_pb2.RegisterNodeFleetRequest(public_key=self._key))
        activated = self._stub.ActivateNode(
            fleet_pb2.ActivateNodeRequest(public_key=self._key, heartbeat_interval=heartbeat_seconds)
        )
        self._node = node_pb2.Node(node_id=activated.node_id)

    @property
    def node_id(self) -> int:
        """Flower's id of it."""
        return int(self._node.node_id)

    def beat(self, heartbeat_seconds: float) -> None:
        """Send one heartbeat."""
        request = heartbeat_pb2.SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=heartbeat_seconds)
        if not self._stub.SendNodeHeartbeat(request, timeout=HEARTBEAT_TIMEOUT_SECONDS).success:
            raise RuntimeError("the SuperLink does not know this node")

    def pull(self, answering: Answering | None) -> bool:
        """Ask for a message, and answer it at once; return whether there was one."""
        found = self._stub.PullMessages(fleet_pb2.PullMessagesRequest(node=self._node))
        if not found.messages_list or answering is None:
            return False
        message, tree = message_from_proto(found.messages_list[0]), found.message_object_trees[0]
        run_id, message_id = message.metadata.run_id, message.metadata.message_id
        if run_id not in self._runs:
            run = self._stub.GetRun(run_pb2.GetRunRequest(node=self._node, run_id=run_id)).run
            self._stub.GetFab(fab_pb2.GetFabRequest(node=self._node, hash_str=run.fab_hash, run_id=run_id))
            self._runs.add(run_id)
        contents = pull_objects(
            [one.object_id for one in iterate_object_tree(tree)],
            make_pull_object_fn_protobuf(self._stub.PullObject, self._node, run_id),
        )
        make_confirm_message_received_fn_protobuf(self._stub.ConfirmMessageReceived, self._node, run_id)(message_id)
        task = inflate_object_from_contents(message_id, contents)
        task.metadata.__dict__["_message_id"] = message_id
        self._push(Message(answering(self, task), reply_to=task), run_id)
        return True

    def _push(self, reply: Message, run_id: int) -> None:
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects = {key: one.deflate() for key, one in get_all_nested_objects(reply).items()}
        tree = get_object_tree(reply)
        bare = message_to_proto(remove_content_from_message(reply))
        request = fleet_pb2.PushMessagesRequest(
            node=self._node, messages_list=[bare], message_object_trees=[tree], clientapp_runtime_list=[0.0]
        )
        pushed = self._stub.PushMessages(request)
        wanted = [(key, objects[key]) for key in objects if key in set(pushed.objects_to_push)]
        push = make_push_object_fn_protobuf(self._stub.PushObject, self._node, run_id, pushed.session_id)
        push_object_contents_from_iterable(iter(wanted), push)

    def end(self) -> None:
        """Close the connection."""
        self._channel.close()


class Fleet:
    """Nodes that pull and beat at their times, by a few threads; use as a context.

    Args:
        nodes: to be begun here.
        calm: whether they are idle cars, with stretched pulls and heartbeats; else the cars of a run.
        floor_seconds: between two pulls in a run.
        spread_seconds: in which they begin, one after the other.
    """

    def __init__(
        self, nodes: list[SimulatedNode], *, calm: bool, floor_seconds: float = 0.05, spread_seconds: float = 0.0
    ) -> None:
        self.nodes, self.tally = nodes, Tally()
        self.answering: Answering | None = None
        self._calm, self._floor, self._spread = calm, floor_seconds, spread_seconds
        self._beat_seconds = USUAL.heartbeat_seconds if calm else RUN_HEARTBEAT_SECONDS
        self._due: list[tuple[float, int, Callable[[], float]]] = []
        self._changed, self._order = threading.Condition(), itertools.count()
        self._stopping = False
        self._pool = ThreadPoolExecutor(WORKERS)

    def __enter__(self) -> Fleet:
        began = time.monotonic()
        for number, one in enumerate(self.nodes):
            at = began + self._spread * number / len(self.nodes)
            self._put(at, partial(self._begin, one))
        self._workers = [self._pool.submit(self._work) for _ in range(WORKERS)]
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._pool.shutdown()
        for one in self.nodes:
            one.end()

    def _put(self, at: float, turn: Callable[[], float]) -> None:
        with self._changed:
            heapq.heappush(self._due, (at, next(self._order), turn))
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and (not self._due or self._due[0][0] > time.monotonic()):
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                if self._stopping:
                    return
                at, _, turn = heapq.heappop(self._due)
            self.tally.late += time.monotonic() - at > 1.0
            try:
                pause = turn()
            except Exception as error:  # counted and shown; the node goes on, as SuperNode does
                name = f"{type(error).__name__}: {str(error)[:200]}"
                self.tally.errors[name] = self.tally.errors.get(name, 0) + 1
                pause = 1.0
            if pause >= 0:
                self._put(time.monotonic() + pause, turn)

    def _begin(self, one: SimulatedNode) -> float:
        one.begin(self._beat_seconds)
        pace = Pace(self._floor)
        self._put(time.monotonic() + self._beat_pause(), partial(self._beat, one))
        # An idle car has been idle for a while: its pulls have lost all step with the others'.
        first = random.uniform(0, USUAL.pull_seconds) if self._calm else 0.0
        self._put(time.monotonic() + first, partial(self._pull, one, pace))
        return -1.0

    def _beat_pause(self) -> float:
        share = HEARTBEAT_SHARE + random.uniform(-HEARTBEAT_SPREAD, HEARTBEAT_SPREAD)
        return due_seconds(
            self._beat_seconds, self._beat_seconds, timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS, share=share
        )

    def _beat(self, one: SimulatedNode) -> float:
        one.beat(self._beat_seconds)
        self.tally.heartbeats += 1
        return self._beat_pause()

    def _pull(self, one: SimulatedNode, pace: Pace) -> float:
        self.tally.pulls += 1
        if one.pull(self.answering):
            self.tally.answers += 1
            pace.happened()
            return 0.0  # SuperNode asks at once for the next one
        return USUAL.pull_seconds if self._calm else pace.seconds(max(SUPERNODE_WAIT_SECONDS, self._floor))
