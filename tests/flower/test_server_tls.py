"""TLS as server.toml configures it: a real SuperLink and a real web API, asked with the right CA and a wrong one."""

from __future__ import annotations

import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from agent_harness import wait_for
from certificates import write_certificates, write_node_key
from crash_runs import crash_federation
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import PUBLIC_KEY_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest
from flwr.proto.fleet_pb2_grpc import FleetStub
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from tiny_federation import free_port

pytestmark = [pytest.mark.flower, pytest.mark.timeout(180)]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Any]:
    """Yield a federation whose SuperLink and web API have certificates; nothing is started yet."""
    folder = write_certificates(tmp_path / "right")
    pair = f'certificate = "{folder}/server.crt"\nprivate-key = "{folder}/server.key"\n'
    with crash_federation(tmp_path / "federation") as made:
        config = tmp_path / "federation" / "server.toml"
        text = config.read_text()
        text = text.replace("[superlink]\n", f'[superlink]\n{pair}root-certificates = "{folder}/ca.crt"\n')
        config.write_text(text.replace("[web]\n", f"[web]\n{pair}"))
        yield made


def start_with_known_nodes_only(federation: Any, tmp_path: Path) -> None:
    """Start the SuperLink so that a node has to be registered with its key; `flwr` finds it."""
    config = tmp_path / "federation" / "server.toml"
    config.write_text(config.read_text().replace("[superlink]\n", "[superlink]\nsupernode-authentication = true\n"))
    federation.start_superlink()
    federation.wait_for_superlink(60)
    federation.environment["FLWR_HOME"] = str(federation.state / "flwr")


def test_the_superlink_and_the_web_api_speak_tls(federation: Any, tmp_path: Path) -> None:
    federation.start_superlink()
    federation.wait_for_superlink(60)
    # The connection that the server wrote for itself and for the operator trusts the CA.
    assert federation.flower_runs() == []
    file = federation.state / "flwr" / "config.toml"
    wrong = write_certificates(tmp_path / "wrong")
    file.write_text(file.read_text().replace(f"{tmp_path}/right/ca.crt", f"{wrong}/ca.crt"))
    listing = ("ls", "fleven-deployment", "--format", "json")
    federation.environment["FLWR_HOME"] = str(file.parent)
    refused = federation.command(*listing, program="flwr", check=False)
    assert json.loads(refused.stdout[refused.stdout.index("{") :])["success"] is False

    federation.start_server()
    federation.wait_for_register(60)
    config = json.loads(federation.command("config", "show", "--json").stdout)
    url = f"https://{config['web']['address']}/healthz"
    trusted = ssl.create_default_context(cafile=str(tmp_path / "right" / "ca.crt"))
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, context=trusted, timeout=10) as answer:
                assert json.load(answer)["ok"] is True
            break
        except urllib.error.HTTPError:
            # The loop has not turned yet.
            assert time.monotonic() < deadline
            time.sleep(0.2)
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(url, context=ssl.create_default_context(cafile=f"{wrong}/ca.crt"), timeout=10)
    status = json.loads(federation.command("status", "--json", check=False).stdout)
    assert status["service"]["running"] is True


def test_a_superlink_that_takes_only_registered_nodes(federation: Any, tmp_path: Path) -> None:
    """supernode-authentication in server.toml: refused without a key and with an unknown one, then registered."""
    start_with_known_nodes_only(federation, tmp_path)
    key = write_node_key(tmp_path)

    def start_node(name: str, *options: str) -> Path:
        federation.spawn(
            name,
            [
                *(str(Path(sys.executable).parent / "flower-supernode"), *options),
                *("--superlink", f"127.0.0.1:{federation.fleet_port}"),
                *("--root-certificates", f"{tmp_path}/right/ca.crt"),
                *("--clientappio-api-address", f"127.0.0.1:{free_port()}"),
            ],
            FLWR_HOME=str(tmp_path / name),
        )
        return Path(federation.folder / f"{name}.1.log")

    def statuses() -> list[str]:
        listing = federation.command("supernode", "list", "fleven-deployment", "--format", "json", program="flwr")
        return [node["status"] for node in json.loads(listing.stdout[listing.stdout.index("{") :])["nodes"]]

    without, unknown = start_node("keyless"), start_node("unknown", "--auth-supernode-private-key", str(key))
    for log, code in ((without, 2001), (unknown, 2004)):
        wait_for(f"code {code} in {log.name}", lambda log=log, code=code: f'"code": {code}' in log.read_text(), 60)
    assert statuses() == []

    federation.command("supernode", "register", str(tmp_path / "node.pub"), "fleven-deployment", program="flwr")
    start_node("known", "--auth-supernode-private-key", str(key))
    wait_for("the node to be online", lambda: statuses() == ["online"], 60)


def test_what_a_stranger_sends_is_not_read(federation: Any, tmp_path: Path) -> None:
    """Messages of 200 MB without a key, with an unknown key, and one above the bound with a registered key."""
    start_with_known_nodes_only(federation, tmp_path)
    unknown, known = write_node_key(tmp_path), tmp_path / "known.key"
    unknown.rename(known)
    federation.command("supernode", "register", str(tmp_path / "node.pub"), "fleven-deployment", program="flwr")
    unknown = write_node_key(tmp_path)
    superlink = psutil.Process(federation.processes["superlink"].pid)
    before = superlink.memory_info().rss

    def push(megabytes: int, key: Path | None) -> tuple[str, str]:
        return push_object(f"127.0.0.1:{federation.fleet_port}", tmp_path / "right" / "ca.crt", megabytes, key)

    assert push(200, None) == ("UNAUTHENTICATED", "Missing authentication metadata")
    assert push(200, unknown) == ("UNAUTHENTICATED", "Invalid node ID")
    grown = superlink.memory_info().rss - before
    assert grown < 60_000_000, f"the SuperLink grew by {grown / 1e6:.0f} MB"
    # Small enough to be read: Flower itself answers, that this is not the node of the key.
    assert push(1, known) == ("UNAUTHENTICATED", "Invalid node ID")
    assert push(20, known)[0] == "RESOURCE_EXHAUSTED"


def test_what_a_car_breaks_off_or_garbles_leaves_no_traceback(federation: Any, tmp_path: Path) -> None:
    """With a registered key: uploads cut at any moment, a call without a message, one that is none."""
    start_with_known_nodes_only(federation, tmp_path)
    key = write_node_key(tmp_path)
    federation.command("supernode", "register", str(tmp_path / "node.pub"), "fleven-deployment", program="flwr")
    credentials = grpc.ssl_channel_credentials((tmp_path / "right" / "ca.crt").read_bytes())
    address, method = f"127.0.0.1:{federation.fleet_port}", "/flwr.proto.Fleet/PushObject"
    whole = PushObjectRequest(object_id="0" * 64, object_content=bytes(12_000_000))
    for attempt in range(12):
        with grpc.secure_channel(address, credentials) as channel:
            call = FleetStub(channel).PushObject.future(whole, metadata=signed_headers(key), timeout=60)
            time.sleep(0.005 * attempt)
            call.cancel()
    codes = []
    with grpc.secure_channel(address, credentials) as channel:
        for messages in ([], [b"\xff" * 1_000], [b"\xff" * 1_000] * 3):
            call = channel.stream_unary(method)
            with pytest.raises(grpc.RpcError) as refused:
                call(iter(messages), metadata=signed_headers(key), timeout=60)
            codes.append(refused.value.code().name)
        assert codes == ["INVALID_ARGUMENT", "INTERNAL", "INTERNAL"]
    # It goes on answering.
    assert push_object(address, tmp_path / "right" / "ca.crt", 1, key) == ("UNAUTHENTICATED", "Invalid node ID")
    log = (federation.folder / "superlink.1.log").read_text()
    assert "Traceback" not in log, log[-4000:]


def test_a_supernode_ends_what_the_one_before_has_left_and_nobody_else_does(federation: Any, tmp_path: Path) -> None:
    """The one before was killed: its last calls come when the next one of its key has long been let in."""
    start_with_known_nodes_only(federation, tmp_path)
    key = write_node_key(tmp_path)
    federation.command("supernode", "register", str(tmp_path / "node.pub"), "fleven-deployment", program="flwr")
    credentials = grpc.ssl_channel_credentials((tmp_path / "right" / "ca.crt").read_bytes())
    address = f"127.0.0.1:{federation.fleet_port}"
    headers = signed_headers(key)
    activate = ActivateNodeRequest(public_key=bytes(headers[0][1]), heartbeat_interval=30)

    def code(call: Any, request: Any, signed: list[tuple[str, str | bytes]]) -> str:
        try:
            call(request, metadata=signed, timeout=20)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    def is_online() -> bool:
        listing = federation.command("supernode", "list", "fleven-deployment", "--format", "json", program="flwr")
        return [node["status"] for node in json.loads(listing.stdout[listing.stdout.index("{") :])["nodes"]] == [
            "online"
        ]

    # Channels of one process with equal arguments share a connection.
    with (
        grpc.secure_channel(address, credentials, options=[("test", 1)]) as before,
        grpc.secure_channel(address, credentials, options=[("test", 2)]) as after,
    ):
        node = Node(node_id=FleetStub(before).ActivateNode(activate, metadata=headers, timeout=20).node_id)
        pull, leave = PullMessagesRequest(node=node), DeactivateNodeRequest(node_id=node.node_id)
        assert code(FleetStub(before).PullMessages, pull, signed_headers(key)) == "OK"
        # Who knows only the public key ends no session.
        forged = [*headers[:2], (SIGNATURE_HEADER, b"0" * 70)]
        assert code(FleetStub(after).ActivateNode, activate, forged) == "UNAUTHENTICATED"
        assert is_online()
        late = signed_headers(key)
        began = time.monotonic()
        assert code(FleetStub(after).ActivateNode, activate, signed_headers(key)) == "OK"
        assert time.monotonic() - began < 3, "the next SuperNode is let in at once"
        for call, request in ((FleetStub(before).PullMessages, pull), (FleetStub(before).DeactivateNode, leave)):
            assert code(call, request, late) == "UNAVAILABLE"
        assert is_online()
        assert code(FleetStub(after).PullMessages, pull, late) == "OK", "its own clock was set back"
        assert code(FleetStub(before).PullMessages, pull, signed_headers(key)) == "OK", "another connection of its own"


def signed_headers(key: Path) -> list[tuple[str, str | bytes]]:
    """What SuperNode signs each request with."""
    private = serialization.load_ssh_private_key(key.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    stamp = now().isoformat()
    return [
        (PUBLIC_KEY_HEADER, public_key_to_bytes(private.public_key())),
        (TIMESTAMP_HEADER, stamp),
        (SIGNATURE_HEADER, sign_message(private, stamp.encode("ascii"))),
    ]


def push_object(address: str, root_certificates: Path, megabytes: int, key: Path | None) -> tuple[str, str]:
    """Send one object to the Fleet API, as SuperNode does, signed by a key or not; return the refusal."""
    headers = signed_headers(key) if key is not None else []
    credentials = grpc.ssl_channel_credentials(root_certificates.read_bytes())
    with grpc.secure_channel(address, credentials, options=[("grpc.max_send_message_length", -1)]) as channel:
        request = PushObjectRequest(object_id="0" * 64, object_content=bytes(megabytes * 1_000_000))
        try:
            FleetStub(channel).PushObject(request, metadata=headers, timeout=60)
        except grpc.RpcError as error:
            return error.code().name, error.details()
    return "OK", ""
