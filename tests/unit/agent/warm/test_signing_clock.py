"""Signatures by the server's clock, as Flower's own two halves see them."""

import importlib
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.server.superlink.fleet.grpc_rere.node_auth_server_interceptor import NodeAuthServerInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs

from fleven_agent.warm import pace_file
from fleven_agent.warm.flower_internals import NotRecognisedError, installed_internals
from fleven_agent.warm.pace_file import PaceFile, Wanted
from fleven_agent.warm.signing_clock import sign_by_server_clock

FLOWER = installed_internals()
METHOD = "/flwr.proto.Fleet/PullMessages"


@pytest.fixture
def signing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Flower's module of the signatures, put back afterwards."""
    module = importlib.import_module(FLOWER.signing_module)
    monkeypatch.setattr(module, FLOWER.clock_function, getattr(module, FLOWER.clock_function))
    return module


def taken(signing: Any) -> bool:
    """Sign a call as SuperNode does; whether Flower's half on the server lets it through."""
    metadata: list[tuple[str, Any]] = []
    call = SimpleNamespace(metadata=None, _replace=lambda metadata: SimpleNamespace(metadata=metadata))
    signing.NodeAuthClientInterceptor(*generate_key_pairs()).intercept_unary_unary(
        lambda details, _request: metadata.extend(details.metadata), call, None
    )
    passed: list[bool] = []

    def go_on(_details: object) -> Any:
        passed.append(True)
        return SimpleNamespace(unary_unary=None, request_deserializer=None, response_serializer=None)

    details = SimpleNamespace(method=METHOD, invocation_metadata=metadata)
    NodeAuthServerInterceptor(lambda: None).intercept_service(go_on, details)  # type: ignore[arg-type]
    return bool(passed)


@pytest.mark.parametrize("ahead_seconds", [3_600.0, -3_600.0])
def test_a_car_with_a_wrong_clock_signs_by_the_servers(
    signing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_seconds: float
) -> None:
    own = getattr(signing, FLOWER.clock_function)
    clock_module = importlib.import_module(FLOWER.clock_module)

    def wrong() -> datetime:
        moment: datetime = own()
        return moment + timedelta(seconds=ahead_seconds)

    for module in (clock_module, signing):
        monkeypatch.setattr(module, FLOWER.clock_function, wrong)
    file = tmp_path / "pace.json"
    assert not taken(signing)
    sign_by_server_clock(FLOWER, PaceFile(str(file)))
    assert not taken(signing)
    at_boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    pace_file.write(file, Wanted(server_time_at_boot_seconds=at_boot))
    assert taken(signing)
    pace_file.write(file, Wanted())
    assert not taken(signing)


def test_the_own_clock_counts_while_the_agent_says_nothing(signing: Any) -> None:
    sign_by_server_clock(FLOWER, PaceFile(None))
    assert taken(signing)


@pytest.mark.parametrize(
    "change",
    [
        {"signing_module": "flwr.gone"},
        {"clock_module": "flwr.gone"},
        {"clock_function": "gone"},
        {"signing_module": "flwr.supercore.heartbeat"},
    ],
)
def test_another_flower_signs_as_it_does(signing: Any, change: dict[str, str]) -> None:
    before = getattr(signing, FLOWER.clock_function)
    with pytest.raises(NotRecognisedError):
        sign_by_server_clock(replace(FLOWER, **change), PaceFile(None))  # type: ignore[arg-type]
    assert getattr(signing, FLOWER.clock_function) is before
