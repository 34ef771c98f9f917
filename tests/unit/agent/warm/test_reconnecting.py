"""Tries to reach a SuperLink that was away: how far apart, and in which Flower."""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from fleven_agent.warm.flower_internals import NotRecognisedError, installed_internals
from fleven_agent.warm.reconnecting import LONGEST_PAUSE_SECONDS, OPTION, ReconnectingGrpc, reconnect_soon

FLOWER = installed_internals()


@pytest.fixture
def channels(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Flower's modules, put back afterwards."""
    channels, retries = importlib.import_module(FLOWER.channel_module), importlib.import_module(FLOWER.retry_module)
    monkeypatch.setattr(channels, "grpc", channels.grpc)
    monkeypatch.setattr(retries, FLOWER.retry_constant, getattr(retries, FLOWER.retry_constant))
    return channels


@pytest.mark.parametrize("insecure", [True, False])
def test_each_channel_of_flower_is_told_the_longest_pause(
    channels: ModuleType, monkeypatch: pytest.MonkeyPatch, insecure: bool
) -> None:
    told: list[list[tuple[str, Any]]] = []
    name = "insecure_channel" if insecure else "secure_channel"
    monkeypatch.setattr(channels.grpc, name, lambda *_, options, **__: told.append(options) or object())
    reconnect_soon(FLOWER)
    channels.create_channel("127.0.0.1:1", insecure)
    [options] = told
    assert (OPTION, LONGEST_PAUSE_SECONDS * 1000) in options
    assert "grpc.max_send_message_length" in dict(options), "what Flower sets stays"
    retries = importlib.import_module(FLOWER.retry_module)
    waits = retries.make_simple_grpc_retry_invoker().wait_gen_factory()
    assert max(next(waits) for _ in range(20)) == LONGEST_PAUSE_SECONDS


@pytest.mark.parametrize("change", [{"channel_function": "gone"}, {"retry_constant": "GONE"}, {"retry_seconds": 21}])
def test_another_flower_is_left_as_it_is(channels: ModuleType, change: dict[str, Any]) -> None:
    before = channels.grpc
    with pytest.raises(NotRecognisedError):
        reconnect_soon(replace(FLOWER, **change))
    assert channels.grpc is before
    assert getattr(importlib.import_module(FLOWER.retry_module), FLOWER.retry_constant) == FLOWER.retry_seconds


def test_everything_else_of_grpc_is_as_it_was(channels: ModuleType) -> None:
    assert ReconnectingGrpc(channels.grpc, 1).StatusCode is channels.grpc.StatusCode
