"""The table of kept readings, and that whatever follows from it holds each of them."""

from __future__ import annotations

import math

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import TypeAdapter

from fleven.server.database import Store
from fleven.server.database.readings import LARGEST_INTEGER, READINGS, Hourly, share_percent
from fleven.server.database.tables import metadata, sample_hours, samples
from fleven.server.schemas.nodes import NodeAnswer
from fleven_agent.protocol.readings import Readings

BY_NAME = {reading.name: reading for reading in READINGS}


def test_each_reading_has_its_columns_its_field_and_a_metric_of_its_own() -> None:
    for reading in READINGS:
        assert reading.name in samples.c
        assert reading.name in sample_hours.c
        assert (f"{reading.name}_maximum" in sample_hours.c) == (reading.hourly is Hourly.MEAN_AND_MAXIMUM)
        assert reading.name in NodeAnswer.model_fields
    assert len({reading.metric for reading in READINGS}) == len(READINGS)


def test_the_migrations_make_the_very_columns_of_the_tables(store: Store) -> None:
    with store.engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), metadata)
    columns = [change for change in found if isinstance(change, tuple) and change[0] in ("add_column", "remove_column")]
    assert columns == []


@pytest.mark.parametrize(
    ("name", "resources", "value"),
    [
        ("load_1m", {"load_1m": 1.5}, 1.5),
        ("temperature_celsius", {"temperature_celsius": -3.0}, -3.0),
        ("temperature_celsius", {"temperature_celsius": math.inf}, None),
        ("cpu_percent", {"cpu_percent": 12.0}, 12.0),
        ("memory_percent", {"memory_total_bytes": 1000, "memory_available_bytes": 250}, 75.0),
        ("memory_percent", {"memory_total_bytes": 1000}, None),
        ("memory_percent", {"memory_total_bytes": 0, "memory_available_bytes": 0}, None),
        (
            "disk_free_percent",
            {
                "disks": [
                    {"path": path, "total_bytes": 100, "free_bytes": free} for path, free in (("/", 40), ("/d", 7))
                ]
            },
            7.0,
        ),
        ("disk_free_percent", {}, None),
    ],
)
def test_a_reading_is_found_in_a_report(name: str, resources: dict[str, object], value: float | None) -> None:
    assert BY_NAME[name].of(TypeAdapter(Readings).validate_python(resources)) == value


def test_shares_stay_between_nothing_and_all() -> None:
    assert share_percent(LARGEST_INTEGER, 1) == 100.0
    assert share_percent(-1, 10) == 0.0
