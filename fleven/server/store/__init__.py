"""The register in SQLite: opened, migrated and checked in one place, written in short transactions.

`open_store` is the only way in. Tables stand in `tables` (one metadata for the whole server); schedules and runs have
their queries in `schedules` and `runs`, nodes in `fleven.server.store_nodes`. Decisions live elsewhere: this package
must not import policy, calendar or anything that calls Flower.
"""

from fleven.server.store.engine import Store, open_store

__all__ = ["Store", "open_store"]
