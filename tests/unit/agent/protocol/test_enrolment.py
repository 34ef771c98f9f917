"""The wire of joining: bounds of every field, and the bytes that a proof signs."""

import json

import pytest
from pydantic import ValidationError

from fleven_agent.protocol.enrolment import (
    MAXIMUM_REQUEST_BYTES,
    EnrolAnswer,
    EnrolRequest,
    RotateRequest,
)
from fleven_agent.protocol.identity import (
    Refusal,
    authorities_text,
    digest_fits,
    enrol_proof,
    rotate_proof,
    secret_digest,
)

KEY = "ecdsa-sha2-nistp384 " + "A" * 180 + "=="
REQUEST = {
    "schema_version": 1,
    "public_key": KEY,
    "secret_sha256": "0" * 64,
    "invitation": {"id": "0123abcd", "secret": "s" * 22},
    "name": "car-3",
    "partition_id": 3,
    "num_partitions": None,
    "ca_fingerprint": "a" * 64,
    "created_at": "2026-11-28T04:00:00+00:00",
    "boot_id": "b",
    "agent_version": "0.2.0",
    "flwr_version": "1.34.0",
    "board_model": "Raspberry Pi 4",
    "proof": "MGQC" * 20,
}


def test_the_signed_bytes_are_the_same_on_both_sides() -> None:
    expected = f"fleven-enrol-1\n{KEY}\n{'0' * 64}\n0123abcd\ncar-3\n3\n{'a' * 64}\n2026-11-28T04:00:00+00:00".encode()
    assert enrol_proof(REQUEST) == expected
    assert EnrolRequest.model_validate(REQUEST).signed_bytes() == expected


def test_what_is_not_given_is_signed_as_empty() -> None:
    bare = {**REQUEST, "invitation": None, "partition_id": None}
    expected = f"fleven-enrol-1\n{KEY}\n{'0' * 64}\n\ncar-3\n\n{'a' * 64}\n2026-11-28T04:00:00+00:00".encode()
    assert enrol_proof(bare) == EnrolRequest.model_validate(bare).signed_bytes() == expected
    # The moment is signed as it was written, in whatever form of ISO 8601.
    zulu = {**bare, "created_at": "2026-11-28T04:00:00.5Z"}
    assert EnrolRequest.model_validate_json(json.dumps(zulu)).signed_bytes().endswith(b"\n2026-11-28T04:00:00.5Z")


def test_a_rotation_signs_the_car_and_the_new_key() -> None:
    request = {
        "car_id": "f" * 16,
        "public_key": KEY,
        "secret_sha256": "1" * 64,
        "created_at": REQUEST["created_at"],
        "proof": REQUEST["proof"],
    }
    expected = f"fleven-rotate-1\n{KEY}\n{'1' * 64}\n{'f' * 16}\n2026-11-28T04:00:00+00:00".encode()
    assert rotate_proof(request) == RotateRequest.model_validate(request).signed_bytes() == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("public_key", "ssh-ed25519 AAAA"),
        ("public_key", f"{KEY} comment"),
        ("public_key", f"{KEY}\n{KEY}"),
        ("public_key", "ecdsa-sha2-nistp384 " + "A" * 1_100),
        ("secret_sha256", "0" * 63),
        ("secret_sha256", "A" * 64),
        ("invitation", {"id": "0123abcd", "secret": "short"}),
        ("invitation", {"id": "../../..", "secret": "s" * 22}),
        ("name", ""),
        ("name", "car\n3"),
        ("name", "car\x1b[2J"),
        ("name", "x" * 65),
        ("partition_id", -1),
        ("partition_id", 2**31),
        ("num_partitions", 0),
        ("ca_fingerprint", "a" * 65),
        ("created_at", "2026-11-28T04:00:00"),
        ("created_at", "yesterday at half past four"),
        ("boot_id", "b" * 129),
        ("proof", "not base64!"),
        ("proof", "A" * 404),
        ("schema_version", 0),
    ],
)
def test_every_field_is_bounded(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        EnrolRequest.model_validate({**REQUEST, field: value})
    assert {error["loc"][0] for error in caught.value.errors()} == {field}


def test_the_largest_request_fits_the_limit_of_its_body() -> None:
    largest = {
        **REQUEST,
        "public_key": "ecdsa-sha2-nistp521 " + "A" * 1_004,
        "invitation": {"id": "0123abcd", "secret": "s" * 64},
        "name": "\u00e9" * 64,
        "boot_id": "\u00e9" * 128,
        "agent_version": "\u00e9" * 128,
        "flwr_version": "\u00e9" * 128,
        "board_model": "\u00e9" * 255,
        "proof": "A" * 400,
    }
    EnrolRequest.model_validate(largest)
    assert len(json.dumps(largest)) <= MAXIMUM_REQUEST_BYTES


def test_unknown_fields_of_later_versions_are_ignored() -> None:
    assert EnrolRequest.model_validate({**REQUEST, "later": 1}).name == "car-3"
    assert EnrolAnswer.model_validate({"status": "pending", "car_id": "f" * 16, "later": 1}).retry_seconds is None


def test_a_secret_is_known_by_its_digest_only() -> None:
    assert secret_digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_fits("abc", secret_digest("abc"))
    assert not digest_fits("abd", secret_digest("abc"))
    assert not digest_fits("ä", secret_digest("abc"))


def test_words_on_the_wire_are_those_that_were_agreed() -> None:
    assert {refusal.value for refusal in Refusal} >= {"invitation-used", "proof-invalid", "identity-revoked"}
    assert authorities_text(["aa", "bb"]) == "aa,bb"
