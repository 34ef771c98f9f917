"""How a line on stderr reaches the journal: with a priority, and only where the journal reads it. Imports nothing."""

import logging
import os
from collections.abc import Mapping
from typing import TextIO

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""Level of a record to priority, as ``<4>`` before a line tells it (sd-daemon(3))."""


def priority_prefix(level: int) -> str:
    """Return what stands before a line of this level; a level in between counts as information."""
    return f"<{PRIORITIES.get(level, PRIORITIES[logging.INFO])}>"


def behind_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Return whether a stream is connected to the journal (``JOURNAL_STREAM``, systemd.exec(5)).

    The variable alone does not tell: a child inherits it, and its stream may lead to a file or a pipe.
    """
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"
