"""Log lines of the app: one event for each line on standard error, beside Flower's own and not mixed into them."""

import logging
import sys


def start_logging() -> None:
    """Send the app's events to standard error, once, however often the app is imported."""
    logger = logging.getLogger("fleven.app")
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("level=%(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Flower lowers the root logger to DEBUG
