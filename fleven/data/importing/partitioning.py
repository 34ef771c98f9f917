"""Which client gets which trips: every vehicle goes to one client, the same way every time. Pure; imports no pandas."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from fleven.data.layout import Trip


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts s2 before s11."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


def each_its_own(trips: list[Trip]) -> list[Trip]:
    """Make each trip a vehicle of its own, for a federation out of one car's log."""
    counts: Counter[str] = Counter()
    renamed = []
    for trip in trips:
        counts[trip.vehicle] += 1
        renamed.append(Trip(f"{trip.vehicle}-trip-{counts[trip.vehicle]}", trip.frame, trip.source, trip.start))
    return renamed


def partition_trips(trips: Sequence[Trip], clients: int | None) -> list[list[Trip]]:
    """Distribute the trips over the clients, all of a vehicle to one.

    Without `clients` each vehicle is a client, in natural order of names. With it, the vehicle with most rows goes
    first, each to the client with fewest rows so far: the same input always gives the same result.
    """
    vehicles: dict[str, list[Trip]] = {}
    for trip in trips:
        vehicles.setdefault(trip.vehicle, []).append(trip)
    for group in vehicles.values():
        if all(trip.start for trip in group):
            group.sort(key=lambda trip: str(trip.start))
    in_order = sorted(vehicles, key=natural)
    if clients is None:
        return [vehicles[name] for name in in_order]
    rows = {name: sum(trip.rows for trip in vehicles[name]) for name in in_order}
    hands: list[list[str]] = [[] for _ in range(clients)]
    for name in sorted(in_order, key=lambda each: -rows[each]):
        fewest = min(range(clients), key=lambda hand: (sum(rows[each] for each in hands[hand]), hand))
        hands[fewest].append(name)
    return [[trip for name in sorted(hand, key=natural) for trip in vehicles[name]] for hand in hands]
