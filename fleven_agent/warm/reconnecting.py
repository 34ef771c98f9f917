"""SuperNode's tries to reach a SuperLink that was away: at least every five seconds, in its own process.

gRPC tries a connection that was refused or not answered again after a pause that grows to two minutes, and Flower asks
for it after pauses of up to 20 s: a car whose server had been away for some minutes came back up to two minutes after
it. A try that nobody answers costs about 300 bytes. Nothing is replaced in a Flower that is not as known. Imports
Flower only when asked to change it.
"""

import importlib
from types import ModuleType
from typing import Any

from fleven_agent.warm.flower_internals import FlowerInternals, NotRecognisedError

LONGEST_PAUSE_SECONDS = 5
CHANNELS = ("insecure_channel", "secure_channel")
OPTION = "grpc.max_reconnect_backoff_ms"
"""gRPC's channel argument (grpc_types.h, GRPC_ARG_MAX_RECONNECT_BACKOFF_MS); by default 120,000."""


class ReconnectingGrpc:
    """Stands for the module ``grpc`` in one module of Flower; only its channels differ."""

    def __init__(self, grpc: Any, longest_pause_seconds: float) -> None:
        self._grpc, self._option = grpc, (OPTION, int(longest_pause_seconds * 1000))

    def __getattr__(self, name: str) -> object:
        return getattr(self._grpc, name)

    def insecure_channel(self, target: str, options: Any = None, **others: Any) -> Any:
        """Return a channel without TLS."""
        return self._grpc.insecure_channel(target, options=[*(options or ()), self._option], **others)

    def secure_channel(self, target: str, credentials: Any, options: Any = None, **others: Any) -> Any:
        """Return a channel inside TLS."""
        return self._grpc.secure_channel(target, credentials, options=[*(options or ()), self._option], **others)


def reconnect_soon(flower: FlowerInternals) -> None:
    """Shorten the pauses between tries in this process; raises ``NotRecognisedError`` and leaves all as it is."""
    channels = importlib.import_module(flower.channel_module)
    retries = importlib.import_module(flower.retry_module)
    _check(flower, channels, retries)
    channels.__dict__["grpc"] = ReconnectingGrpc(channels.__dict__["grpc"], LONGEST_PAUSE_SECONDS)
    setattr(retries, flower.retry_constant, LONGEST_PAUSE_SECONDS)


def _check(flower: FlowerInternals, channels: ModuleType, retries: ModuleType) -> None:
    code = getattr(channels.__dict__.get(flower.channel_function), "__code__", None)
    if code is None or not set(CHANNELS) <= set(code.co_names) or OPTION in code.co_consts:
        raise NotRecognisedError(f"{flower.channel_module} makes its channels in an unknown way")
    if any(not callable(getattr(channels.__dict__.get("grpc"), name, None)) for name in CHANNELS):
        raise NotRecognisedError(f"{flower.channel_module} makes its channels by something else than grpc")
    if getattr(retries, flower.retry_constant, None) != flower.retry_seconds:
        raise NotRecognisedError("the pauses between tries are not the known ones")
