"""What changed between two reports, as a JSON Merge Patch (RFC 7386): a car's regular report repeats most of the last.

A member that is null in a report means the same as one that is missing, so that a patch may take it away. Pure;
imports the standard library only.
"""

from collections.abc import Mapping
from typing import Any


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the patch that makes ``after`` of ``before``."""
    found: dict[str, Any] = {}
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = difference(old, new)
            if inner:
                found[name] = inner
        elif isinstance(old, list | tuple) and isinstance(new, list | tuple):
            if list(old) != list(new):
                found[name] = new
        elif old != new or type(old) is not type(new):
            found[name] = new
    return found


def applied(before: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a patch makes of ``before``, which stays as it is."""
    after = dict(before)
    for name, new in patch.items():
        if new is None:
            after.pop(name, None)
        elif isinstance(new, Mapping):
            old = after.get(name)
            after[name] = applied(old if isinstance(old, Mapping) else {}, new)
        else:
            after[name] = new
    return after
