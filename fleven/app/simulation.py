"""A federation simulated in one process: the real ServerApp and ClientApp code, without Flower's network or processes.

It serves benchmarks and tests, and anybody who wants to try settings on one machine. Results carry no sign of it, so it
is never used for a run of the fleet.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from .client_app import app as client_app

Fault = Callable[[int, Message], Message | None]


class SimulatedGrid(Grid):
    """Calls the ClientApp in place of sending it a message; a reply is there at the next pull.

    node_configs: node id → Flower node configuration. fault: may answer in a car's place, or return None for "no
    answer ever"; it is asked for each message and raises LookupError to leave the message to the car.
    """

    def __init__(
        self,
        node_configs: Mapping[int, dict[str, str | int | float | bool]],
        run_config: Mapping[str, str | int | float | bool],
        fault: Fault | None = None,
    ) -> None:
        self.node_configs = dict(node_configs)
        self._run_config = dict(run_config)
        self._fault = fault
        self._replies: dict[str, Message] = {}
        self._sent = 0

    @classmethod
    def of_folders(
        cls, folders: Iterable[Path], run_config: Mapping[str, str | int | float | bool], fault: Fault | None = None
    ) -> "SimulatedGrid":
        """One car for each folder of trips; partition-ids count from 0, node ids from 1000."""
        configs: dict[int, dict[str, str | int | float | bool]] = {
            1000 + number: {"partition-id": number, "data-path": str(folder)} for number, folder in enumerate(folders)
        }
        return cls(configs, run_config, fault)

    def set_run(self, run: Run) -> None:
        """A simulated grid belongs to no run of a SuperLink."""

    @property
    def run(self) -> Run:
        """Refuse: there is no run."""
        raise NotImplementedError("a simulated grid belongs to no run of a SuperLink")

    def create_message(self, *args: object, **kwargs: object) -> Message:
        """Flower has replaced this by the constructor of Message."""
        raise NotImplementedError("use flwr.app.Message")

    def get_node_ids(self) -> Iterable[int]:
        """Return the simulated cars."""
        return list(self.node_configs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Carry the messages out at once."""
        identifiers = []
        for message in messages:
            self._sent += 1
            identifier = f"message-{self._sent}"
            identifiers.append(identifier)
            message.metadata.__dict__["_message_id"] = identifier
            reply = self._answer(message)
            if reply is not None:
                self._replies[identifier] = reply
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        return [self._replies.pop(identifier) for identifier in list(message_ids) if identifier in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, then pull."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message | None:
        node_id = message.metadata.dst_node_id
        if self._fault is not None:
            try:
                return self._fault(node_id, message)
            except LookupError:
                pass  # the car answers for itself
        if node_id not in self.node_configs:
            return Message(Error(5, "Node Unavailable"), reply_to=message)
        return self.of_the_car(message)

    def of_the_car(self, message: Message) -> Message:
        """Return the answer of the ClientApp's code, which a `fault` may then change."""
        node_id = message.metadata.dst_node_id
        context = Context(1, node_id, dict(self.node_configs[node_id]), RecordDict(), dict(self._run_config))
        try:
            return client_app(message, context)
        except Exception as error:  # as flwr-clientapp does: an exception becomes Flower's error code 2
            return Message(Error(2, f"{type(error)}:<{error}>"), reply_to=message)
