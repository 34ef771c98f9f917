"""Which model each car should have, for the answers to reports: read from the register once in a while, not each time.

Must not import FastAPI or typer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fleven.server.config.paths import Paths
from fleven.server.database import Store
from fleven.server.models import registry
from fleven.server.models.model import Alias

VALID_SECONDS = 2.0
"""So long what was read is believed: a promotion reaches the answers within this time."""


@dataclass(frozen=True, slots=True)
class Offered:
    """A model that cars may fetch."""

    name: str
    sha256: str
    size_bytes: int
    path: Path


class Offers:
    """The champions, and the models before them. Safe to use from several threads: a race reads twice, no more."""

    def __init__(self, store: Store, paths: Paths, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store, self._paths, self._monotonic = store, paths, monotonic
        self._read_at = float("-inf")
        self._champions: Mapping[str, Offered] = {}
        self._by_digest: Mapping[str, Offered] = {}

    def champion(self, experiment: str) -> Offered | None:
        """Return the champion of an experiment; None for none."""
        self._refresh()
        return self._champions.get(experiment)

    def file(self, sha256: str) -> Offered | None:
        """Return a champion, or one before it, by the digest of its file; None for any other file."""
        self._refresh()
        return self._by_digest.get(sha256)

    def _refresh(self) -> None:
        now = self._monotonic()
        if now - self._read_at < VALID_SECONDS:
            return
        champions, by_digest = {}, {}
        with self._store.read() as connection:
            named = registry.named(connection)
        for model in named:
            path = registry.folder(self._paths) / model.file
            try:
                found = Offered(model.name, model.sha256, path.stat().st_size, path)
            except OSError:
                continue  # `models show` and `promote` say what is wrong with it
            by_digest[model.sha256] = found
            if Alias.CHAMPION in model.aliases:
                champions[model.experiment] = found
        self._champions, self._by_digest, self._read_at = champions, by_digest, now
