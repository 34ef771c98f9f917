"""What the SuperLink wrote down of its certificate, however damaged; tests/flower/test_node_keys.py connects by it."""

import json
from pathlib import Path

import pytest

from fleven.server.flower.pinned_connection import recorded_certificate


def test_the_certificate_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "superlink.json"
    file.write_text(json.dumps({"pid": 7, "certificate": "ab" * 32}))
    assert recorded_certificate(file) == "ab" * 32


@pytest.mark.parametrize("content", ["", "{", "[]", "7", "{}", '{"certificate": null}', '{"certificate": 7}', "\\xff"])
def test_without_a_certificate_there_is_none(tmp_path: Path, content: str) -> None:
    file = tmp_path / "superlink.json"
    file.write_text(content)
    assert recorded_certificate(file) is None
    assert recorded_certificate(tmp_path / "nothing") is None
