"""The one wait inside Flower's Grid that short polling runs into: parts of a reply that are still on their way.

A reply shows up on the SuperLink a moment before its arrays do. `Grid.pull_messages` then asks for a missing part again
after 1, 2, 4 … 10 s, which is most of a short round. Here it asks after 20 ms and at least every second, and as many
times more often, so that it gives up no earlier than Flower would. Must not import torch or pandas.
"""

import logging

from flwr.supercore.inflatable import inflatable_utils

log = logging.getLogger("fleven.app")

# The same values stand in fleven_agent.warm.flower_internals: the app travels alone and may import neither side.
#: Argument of Flower's functions: (Flower's default, ours).
RETRIES = {"initial_backoff": (1, 0.02), "backoff_cap": (10, 1.0), "max_tries_per_object": (500, 5000)}
FUNCTIONS = ("pull_objects", "pull_and_inflate_object_from_tree")


def shorten_object_retries() -> bool:
    """Replace the defaults in this process; leave an unknown Flower as it is, and say so."""
    functions = [getattr(inflatable_utils, name, None) for name in FUNCTIONS]
    for name, function in zip(FUNCTIONS, functions, strict=True):
        defaults = getattr(function, "__kwdefaults__", None) or {}
        if any(defaults.get(argument) not in values for argument, values in RETRIES.items()):
            log.info("event=waits-unchanged function=%s reason='not as known'", name)
            return False
    for function in functions:
        assert function is not None  # noqa: S101  # it has known defaults
        function.__kwdefaults__.update({argument: ours for argument, (_, ours) in RETRIES.items()})
    return True
