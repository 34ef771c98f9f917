"""The readings of a machine that the register keeps: the one table from which columns, hours, metrics and lines follow.

A new one is an entry here and a migration that adds its columns, which a test demands. What an agent reports at all is
in `fleven_agent.protocol.readings`. Names are column names and never change. Pure;
must not import SQLAlchemy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from fleven_agent.protocol.readings import Readings

LARGEST_INTEGER = 2**63 - 1
"""What SQLite's integer holds (https://www.sqlite.org/datatype3.html)."""


class Hourly(StrEnum):
    """What is kept of the samples of an hour."""

    MEAN_AND_MAXIMUM = "mean-and-maximum"
    MINIMUM = "minimum"


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading that is kept.

    Attributes:
        name: column of `samples` and `sample_hours`, and field of the API's answers.
        label: its name for people.
        unit: as it is written behind a value; "" for a number without one.
        least_range: the height of a drawn line stands for at least this much, so that noise does not look like news.
        hourly: what is kept of an hour.
        metric: its name at `/metrics`.
        metric_text: its description there.
        of: finds it in a report's resources; None when the machine does not tell.
    """

    name: str
    label: str
    unit: str
    least_range: float
    hourly: Hourly
    metric: str
    metric_text: str
    of: Callable[[Readings], float | None]

    @property
    def maximum(self) -> str | None:
        """Column of an hour's maximum, when one is kept."""
        return f"{self.name}_maximum" if self.hourly is Hourly.MEAN_AND_MAXIMUM else None


def bounded(value: int | None) -> int | None:
    """The number, not above what the register can hold."""
    return None if value is None else min(value, LARGEST_INTEGER)


def finite(value: float | None) -> float | None:
    """The number, or None for infinity and NaN, which JSON cannot carry."""
    return value if value is not None and math.isfinite(value) else None


def share_percent(part: float | None, whole: float | None) -> float | None:
    """`part` of `whole` [percent], None when either is unknown or `whole` is zero."""
    if part is None or not whole:
        return None
    return max(0.0, min(100.0, 100.0 * part / whole))


def memory_percent(resources: Readings) -> float | None:
    """Memory in use [percent]."""
    total, available = bounded(resources.memory_total_bytes), bounded(resources.memory_available_bytes)
    return share_percent(None if total is None or available is None else total - available, total)


def disk_free_percent(resources: Readings) -> float | None:
    """Free space of the fullest file system [percent]."""
    shares = [share_percent(bounded(disk.free_bytes), bounded(disk.total_bytes)) for disk in resources.disks]
    return min((share for share in shares if share is not None), default=None)


READINGS = (
    Reading(
        name="load_1m",
        label="Load",
        unit="",
        least_range=1.0,
        hourly=Hourly.MEAN_AND_MAXIMUM,
        metric="fleven_node_load1",
        metric_text="Load average of one minute",
        of=lambda resources: finite(resources.load_1m),
    ),
    Reading(
        name="temperature_celsius",
        label="Temperature",
        unit="°C",
        least_range=10.0,
        hourly=Hourly.MEAN_AND_MAXIMUM,
        metric="fleven_node_temperature_celsius",
        metric_text="Temperature of the processor [°C]",
        of=lambda resources: finite(resources.temperature_celsius),
    ),
    Reading(
        name="cpu_percent",
        label="CPU",
        unit="%",
        least_range=20.0,
        hourly=Hourly.MEAN_AND_MAXIMUM,
        metric="fleven_node_cpu_percent",
        metric_text="Use of all cores [percent]",
        of=lambda resources: finite(resources.cpu_percent),
    ),
    Reading(
        name="memory_percent",
        label="Memory used",
        unit="%",
        least_range=10.0,
        hourly=Hourly.MEAN_AND_MAXIMUM,
        metric="fleven_node_memory_used_percent",
        metric_text="Memory in use [percent]",
        of=memory_percent,
    ),
    Reading(
        name="disk_free_percent",
        label="Disk free",
        unit="%",
        least_range=5.0,
        hourly=Hourly.MINIMUM,
        metric="fleven_node_disk_free_percent",
        metric_text="Free space of its fullest file system [percent]",
        of=disk_free_percent,
    ),
)
"""In the order in which they are shown."""
