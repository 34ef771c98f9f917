"""The register in SQLite: opened, migrated and checked in one place, written in short transactions.

`open_store` is the only way in. All tables are in `tables`; the queries are with their subject, in
`schedules.store`, `runs.store`, `nodes.registry` and `nodes.ingest`. Decisions live elsewhere: this package must not
import policy, calendar or anything that calls Flower.
"""

from fleven.server.database.engine import Store, open_store

__all__ = ["Store", "open_store"]
