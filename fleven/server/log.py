"""One event a line on stderr, for the journal: `level event=… key=value`. Imports nothing of the server."""

from __future__ import annotations

import logging
import os
import sys

from fleven_agent.common.foreign_text import printable
from fleven_agent.common.journal import behind_journal, priority_prefix


class LineFormatter(logging.Formatter):
    """Formats a record as one line: for the journal with its priority, for people with time and level."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(message)s" if journal else "%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
        self.journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        text = printable(super().format(record)).replace("\n", "\\n")
        return f"{priority_prefix(record.levelno)}{text}" if self.journal else text


def set_up_logging(level: str) -> None:
    """Send all logs to stderr, from the given level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(journal=behind_journal(sys.stderr, os.environ)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Migrations and each HTTP request are not events that anybody looks for.
    for name in ("alembic", "uvicorn", "uvicorn.error", "uvicorn.access", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
