"""What can happen to a SuperNode: the words in which ``daemon`` tells ``supervisor``. Imports the reasons only."""

from dataclasses import dataclass

from fleven_agent.states import Reason


@dataclass(frozen=True, slots=True)
class Begin:
    """The agent starts; ``attempt`` is the persisted backoff index."""

    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Registered:
    """SuperLink accepted the node."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Trying:
    """SuperNode says that it is trying to reach the SuperLink: slow, but alive."""


@dataclass(frozen=True, slots=True)
class Exited:
    """SuperNode is gone, and so is its group."""

    reason: Reason
    detail: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """It could not be started at all."""

    detail: str


@dataclass(frozen=True, slots=True)
class TaskChanged:
    """A task began or ended."""

    active: bool


@dataclass(frozen=True, slots=True)
class GatesChanged:
    """The debounced set of closed gates; each entry is a sentence."""

    closed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """SuperNode lives but cannot do its work, and must be replaced."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Restart:
    """Somebody wants a fresh SuperNode."""

    reason: Reason
    detail: str = ""
    wait_for_task: bool = True


@dataclass(frozen=True, slots=True)
class Quit:
    """The agent is to stop."""

    wait_for_task: bool = True


Event = Begin | Tick | Registered | Trying | Exited | SpawnFailed | TaskChanged | GatesChanged | Broken | Restart | Quit
