"""The bound on replies, on Flower's own objects: what is too large or cannot be put together is one reply's error."""

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.error import Error
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError

from fleven.app.errors import Code
from fleven.app.server.answers import flower_answer
from fleven.app.server.flower_limits import REFUSED, ReplyLimit, assembled_bytes, limit_replies


def parts_of(record: RecordDict) -> tuple[list[str], dict[str, bytes]]:
    """Return the ids of a reply's objects, the reply's first, and their contents."""
    message = Message(record, reply_to=Message(RecordDict(), 1, "train"))
    message.metadata.__dict__["_message_id"] = ""
    contents = {key: value.deflate() for key, value in get_all_nested_objects(message).items()}
    head = message.object_id
    return [head, *(key for key in contents if key != head)], contents


def pull(contents: dict[str, bytes]) -> Callable[[str], bytes]:
    return lambda object_id: contents[object_id]


RECORD = RecordDict({"model": ArrayRecord({"weights": Array(np.arange(1000, dtype=np.float32))}), "a": ConfigRecord()})


def test_a_reply_within_the_bound_is_handed_on_whole() -> None:
    ids, contents = parts_of(RECORD)
    taken = ReplyLimit(inflatable_utils.pull_objects, 10_000)(ids, pull(contents))
    assert taken == contents
    message = cast(Message, inflatable_utils.inflate_object_from_contents(ids[0], taken))
    np.testing.assert_array_equal(message.content["model"]["weights"].numpy(), np.arange(1000))


def refused(ids: list[str], contents: dict[str, bytes], limit_bytes: int = 10_000) -> str:
    with pytest.raises(ObjectPullError) as caught:
        ReplyLimit(inflatable_utils.pull_objects, limit_bytes)(ids, pull(contents))
    answer = flower_answer(Error(3, f"Flower's own words {caught.value}"))
    assert answer.error_code == Code.REPLY_INVALID
    return answer.error_reason


def test_a_reply_beyond_the_bound_is_refused() -> None:
    assert refused(*parts_of(RECORD), 3000).startswith(f"{REFUSED}more than 3000 bytes")


def test_a_chunk_named_a_thousand_times_counts_a_thousand_times() -> None:
    ids, contents = parts_of(RECORD)
    (array,) = (key for key, value in contents.items() if value.startswith(b"Array "))
    head, _, body = contents[array].partition(b"\x00")
    told = json.loads(body)
    told["arraychunk_ids"] = [0] * 1000
    body = json.dumps(told).encode()
    kind, children, _ = head.split(b" ")
    contents[array] = b" ".join([kind, children, str(len(body)).encode()]) + b"\x00" + body
    assert assembled_bytes(contents) > 4_000_000
    assert refused(ids, contents, 1_000_000).startswith(f"{REFUSED}comes to ")


@pytest.mark.parametrize("damage", [b"", b"junk", b"Array  2\x00{}", b"Message x 0\x00", b"RecordDict  1\x00\xff"])
@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_reply_that_cannot_be_put_together_is_refused(damage: bytes, place: int) -> None:
    ids, contents = parts_of(RECORD)
    contents[ids[place]] = damage
    assert refused(ids, contents).startswith(f"{REFUSED}cannot be put together: ")


def test_a_reply_in_too_many_parts_is_not_even_asked_for() -> None:
    with pytest.raises(ObjectPullError, match="20000 parts"):
        ReplyLimit(inflatable_utils.pull_objects, 10)(["x"] * 20_000, pull({}))


def test_flowers_grid_gets_the_bound_once_and_an_unknown_one_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("grid_of_a_test")
    module.pull_objects = inflatable_utils.pull_objects  # type: ignore[attr-defined]
    grid: Any = type("AGrid", (), {"__module__": "grid_of_a_test"})()
    monkeypatch.setitem(__import__("sys").modules, "grid_of_a_test", module)
    assert limit_replies(grid, 10)
    assert limit_replies(grid, 20)
    assert module.pull_objects.limit_bytes == 20
    assert module.pull_objects.pull is inflatable_utils.pull_objects
    module.pull_objects = get_object_id  # type: ignore[attr-defined]
    assert not limit_replies(grid, 10)
    assert module.pull_objects is get_object_id


def test_the_grid_of_this_flower_is_as_known() -> None:
    from flwr.superlink.grid import grpc_grid

    assert grpc_grid.pull_objects is inflatable_utils.pull_objects
