"""The insides of Flower that the warm process and shorter waits rest on, in one object for each line of Flower.

Command lines, log lines and exit codes stand in `fleven_agent.supernode.flower`; a forked task and a wait inside
Flower's own programs need to know more: names of modules and functions, and for how long those wait. This module stands
apart because the warm process may import nothing of the agent. Another line of Flower is another object in `LINES`.
What is installed is always compared with the object before anything is replaced. Imports the standard library only.
"""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache


class NotRecognisedError(Exception):
    """Flower is not as its object here says."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One ``time.sleep`` of Flower: in which function, for how long."""

    function: str
    seconds: float


@dataclass(frozen=True, slots=True)
class FlowerInternals:
    """Flower 1.31 to 1.34."""

    lowest: tuple[int, int] = (1, 31)
    """First release line (major, minor) that is like this."""
    cli_module: str = "flwr.supernode.cli"
    """The package whose import brings SuperNode's half and the ClientApp's."""
    clientapp_module: str = "flwr.supernode.cli.flwr_clientapp"
    cli_source: str = (
        "from .flower_supernode import flower_supernode\n"
        "from .flwr_clientapp import flwr_clientapp\n"
        "__all__ = ['flower_supernode', 'flwr_clientapp']\n"
    )
    """All that the package's ``__init__`` says, docstrings left out."""
    preloaded_modules: tuple[str, ...] = (
        *("flwr.supernode.cli.flwr_clientapp", "flwr.clientapp", "grpc._channel", "grpc._interceptor"),
        *("encodings.cp437", "numpy", "torch"),
    )
    """What every ClientApp of this line imports (to connect, and to unpack a bundle), and what the shipped app adds."""
    task_module: str = "flwr.supernode.runtime.run_clientapp"
    """In it `channel_function` makes a task's channel, which `channel_callback` follows: all that it names is here."""
    channel_function: str = "create_channel"
    channel_callback: str = "on_channel_state_change"
    channel_callback_names: frozenset[str] = frozenset({"log", "DEBUG"})
    channel_module: str = "flwr.supercore.grpc"
    """Where `channel_function` comes from."""
    retry_module: str = "flwr.supercore.retry.grpc_retry"
    retry_constant: str = "MAX_RETRY_DELAY"
    retry_seconds: float = 20
    """Its value: a call that finds no SuperLink is tried again after pauses of up to so long."""
    supernode_module: str = "flwr.supernode.start_client_internal"
    supernode_waits: frozenset[Wait] = frozenset(
        {Wait("start_client_internal", 3), Wait("_push_messages", 0.5), Wait("yield_object_contents", 0.5)}
    )
    bundle_function: str = "get_fused_config_from_fab"
    """In `supernode_module`: called once for each run, with the bytes of its bundle and what is known of the run."""
    superlink_wait_seconds: float = 3.0
    """SuperNode's waits of this length or more are for the SuperLink; shorter ones are for its ClientApp."""
    connection_module: str = "flwr.client.grpc_rere_client.connection"
    connection_function: str = "grpc_request_response"
    """In it `heartbeat_function` tells the SuperLink the interval, a constant of the module that it reads each time."""
    heartbeat_function: str = "send_node_heartbeat"
    signing_module: str = "flwr.client.grpc_rere_client.node_auth_client_interceptor"
    """In it SuperNode signs each call, with the moment that `clock_function`, imported from `clock_module`, returns."""
    clock_module: str = "flwr.supercore.date"
    clock_function: str = "now"
    heartbeat_module: str = "flwr.supercore.heartbeat"
    heartbeat_class: str = "HeartbeatSender"
    heartbeat_constants: Mapping[str, object] = field(
        default_factory=lambda: {
            "HEARTBEAT_DEFAULT_INTERVAL": 30,
            "HEARTBEAT_CALL_TIMEOUT": 5,
            "HEARTBEAT_BASE_MULTIPLIER": 0.8,
            "HEARTBEAT_RANDOM_RANGE": (-0.1, 0.1),
        }
    )
    """A heartbeat follows the one before after (interval - timeout) * (multiplier + a number in the range) [s]."""
    heartbeat_names: frozenset[str] = frozenset(
        {
            *("HEARTBEAT_BASE_MULTIPLIER", "HEARTBEAT_CALL_TIMEOUT", "HEARTBEAT_DEFAULT_INTERVAL"),
            *("HEARTBEAT_RANDOM_RANGE", "_heartbeat", "_retry_invoker", "_stop_event"),
            *("invoke", "is_set", "random", "uniform", "wait"),
        }
    )
    """Everything that the loop of heartbeats names."""
    superexec_module: str = "flwr.supercore.superexec.run_superexec"
    superexec_waits: frozenset[Wait] = frozenset({Wait("run_superexec", 1)})
    executor_module: str = "flwr.supercore.superexec.executor.subprocess_executor"
    executor_class: str = "SubprocessExecutor"
    plugin_module: str = "flwr.supercore.superexec.plugin.base_exec_plugin"
    plugin_class: str = "BaseExecPlugin"
    arguments_module: str = "flwr.common.args"
    """Reads the options that all of Flower's task programs have."""
    objects_module: str = "flwr.supercore.inflatable.inflatable_utils"
    object_functions: tuple[str, ...] = ("pull_objects", "pull_and_inflate_object_from_tree")
    object_retries: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: {
            "initial_backoff": (1, 0.05),
            "backoff_cap": (10, 1.0),
            "max_tries_per_object": (500, 5000),
        }
    )
    """Of each default of these functions: Flower's value [s, s, tries], and ours.

    A ClientApp that asks for a part of a message that SuperNode is still receiving tries again after 1, 2, 4 … 10 s.
    Ours: after 0.05 s and up to 1 s, and as many times more often, so that it gives up no earlier than Flower would."""
    stand_in_releases: frozenset[str] = frozenset({"1.34.0"})
    """Whose imports have been looked at, for `stand_ins`."""
    stand_ins: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "httpx": ("Request", "Response"),
            "fastapi": ("status=starlette.status",),
            "flwr.supercore.error.http": ("BearerAuthenticationError", "http_error_translator"),
            "flwr.supercore.object_store.sql_object_store": ("SqlObjectStore",),
            "flwr.server.superlink.linkstate.sql_linkstate": ("SqlLinkState",),
        }
    )
    """Modules that nothing on a car uses, and what is taken from them while Flower is imported (`warm.stand_ins`)."""


LINES = (FlowerInternals(),)
"""Oldest first."""


def internals_for(version: str) -> FlowerInternals:
    """Return the newest object that is not younger than a version of Flower; the oldest for one that says nothing."""
    numbers = tuple(int(part) if part.isdecimal() else 0 for part in version.split(".")[:2])
    return next((line for line in reversed(LINES) if line.lowest <= numbers), LINES[0])


@lru_cache(maxsize=1)
def installed_internals() -> FlowerInternals:
    """Return the object of the Flower that is installed here."""
    try:
        return internals_for(importlib.metadata.version("flwr"))
    except importlib.metadata.PackageNotFoundError:
        return LINES[0]
