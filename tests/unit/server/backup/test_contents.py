"""The list of contents: nothing that is not named may be in a backup."""

import json
from typing import Any

import pytest

from fleven.server.backup.contents import BackupError, largest, parsed

DIGEST = "0" * 64


def manifest(**changes: Any) -> bytes:
    values: dict[str, Any] = {
        "schema_version": 1,
        "created_at": "2026-11-28T07:00:00Z",
        "fleven_version": "0.2.0",
        "flower_version": "1.34.0",
        "host": "pc",
        "with_keys": False,
        "fingerprint": None,
        "reached_at": ["192.0.2.5"],
        "fleet_port": 9092,
        "web_port": 9190,
        "cars": 3,
        "left_out": [],
        "members": [member("register.db")],
    }
    return json.dumps(values | changes).encode()


def member(name: str, size: int = 5) -> dict[str, Any]:
    return {"name": name, "size": size, "sha256": DIGEST}


def test_a_list_is_read() -> None:
    found = parsed(
        manifest(
            members=[member("register.db"), member("trust/ca.key"), member("models/A/v000001-0123456789ab.safetensors")]
        )
    )
    assert found.total_bytes == 15


@pytest.mark.parametrize(
    "name",
    [
        "/etc/shadow",
        "../register.db",
        "trust/../../etc/cron.d/x",
        "trust/ca.key/..",
        "trust/lock",
        "config/server.toml.d/../../passwd.toml",
        "config/server.toml.d/.hidden.toml",
        "config/server.toml.d/a/b.toml",
        "config/server.toml\n",
        "models/../v000001-0123456789ab.safetensors",
        "models/A/model.pt",
        "certificates/other.pem",
        "manifest.json",
        "",
    ],
)
def test_no_other_name_is_taken(name: str) -> None:
    assert largest(name) is None
    with pytest.raises(BackupError, match="no backup holds"):
        parsed(manifest(members=[member("register.db"), member(name)]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": []}, "register is missing"),
        ({"members": [member("register.db"), member("register.db")]}, "twice"),
        ({"members": [member("register.db"), member("trust/ca.key", 100_001)]}, "more than"),
        ({"members": [member("register.db", 8 * 2**30)]}, "more than"),
        ({"members": [member("register.db", -1)]}, "greater than"),
        (
            {
                "members": [
                    member("register.db"),
                    *(member(f"models/A/v{n:06}-0123456789ab.safetensors", 2**31) for n in range(40)),
                ]
            },
            "unpacked",
        ),
        ({"with_keys": True, "fingerprint": DIGEST}, "authority's key is missing"),
        ({"more": 1}, "Extra"),
        ({"fleet_port": 0}, "greater"),
    ],
)
def test_what_is_not_in_order_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BackupError, match=words):
        parsed(manifest(**changes))


def test_a_later_form_is_named_as_one() -> None:
    with pytest.raises(BackupError, match="has form 2") as caught:
        parsed(manifest(schema_version=2, anything="else"))
    assert caught.value.code == "backup-newer"
    with pytest.raises(BackupError):
        parsed(b"no json")
