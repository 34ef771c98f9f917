"""A bound on what Flower's Grid takes in for one reply, before our own checks see it.

`Grid.pull_messages` holds every part of a reply in memory and puts them together; a reply that is too large, or that
cannot be put together, would end the whole run. Here such a reply becomes Flower's own error for it, which is then one
car's failed answer. Parts may be named more than once: what counts is what they come to. Must not import torch or
pandas.
"""

import json
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

from flwr.serverapp import Grid
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import get_object_head_values_from_object_content
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError

log = logging.getLogger("fleven.app")

Pull = Callable[..., dict[str, bytes]]
MOST_OBJECTS = 10_000
#: Begins the reason of each reply that is refused here.
REFUSED = "refused before it was unpacked: "


class ReplyLimit:
    """Stands in for Flower's `pull_objects` in the Grid."""

    def __init__(self, pull: Pull, limit_bytes: int) -> None:
        self.pull, self.limit_bytes = pull, limit_bytes

    def __call__(
        self, object_ids: list[str], pull_object_fn: Callable[[str], bytes], **options: Any
    ) -> dict[str, bytes]:
        """Pull the objects of one reply. Raises Flower's ObjectPullError, which its Grid turns into an error reply."""
        head = object_ids[0] if object_ids else ""
        if len(object_ids) > MOST_OBJECTS:
            raise _refused(head, f"{len(object_ids)} parts, at most {MOST_OBJECTS} are taken")
        taken, lock = 0, threading.Lock()

        def pull_one(object_id: str) -> bytes:
            nonlocal taken
            content = pull_object_fn(object_id)
            with lock:
                taken += len(content)
                if taken > self.limit_bytes:
                    raise _refused(head, f"more than {self.limit_bytes} bytes")
            return content

        contents = self.pull(object_ids=object_ids, pull_object_fn=pull_one, **options)
        self._try(head, contents)
        return contents

    def _try(self, head: str, contents: dict[str, bytes]) -> None:
        """Put the reply together once, so that one that cannot be fails here."""
        try:
            size = assembled_bytes(contents)
            if size <= self.limit_bytes:
                inflatable_utils.inflate_object_from_contents(head, dict(contents), keep_object_contents=True)
        except Exception as error:  # made by a stranger: what it raises hangs on what it holds
            raise _refused(head, f"cannot be put together: {type(error).__name__}") from None
        if size > self.limit_bytes:
            raise _refused(head, f"comes to {size} bytes, at most {self.limit_bytes} are taken")


def _refused(object_id: str, why: str) -> ObjectPullError:
    return ObjectPullError(object_id, REFUSED + why)


def assembled_bytes(contents: dict[str, bytes]) -> int:
    """Return what the arrays of a reply come to: each names its chunks by number, and as often as it likes."""
    size = 0
    for content in contents.values():
        kind, chunks, body_bytes = get_object_head_values_from_object_content(content)
        if kind == "Array":
            named = json.loads(content[len(content) - body_bytes :])["arraychunk_ids"]
            size += sum(len(contents[chunks[index]]) for index in named)
    return size


def limit_replies(grid: Grid, limit_bytes: int) -> bool:
    """Bound the replies that this Grid takes in; leave a Flower that is not as known as it is, and say so."""
    module = sys.modules[type(grid).__module__]
    pull = getattr(module, "pull_objects", None)
    if isinstance(pull, ReplyLimit):  # an earlier run in this process
        pull = pull.pull
    if pull is not inflatable_utils.pull_objects:
        log.warning("event=replies-unlimited grid=%s reason='not as known'", type(grid).__name__)
        return False
    module.pull_objects = ReplyLimit(pull, limit_bytes)  # type: ignore[attr-defined]
    return True
