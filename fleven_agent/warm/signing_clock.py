"""SuperNode's signatures by the server's clock where this machine's differs from it.

SuperNode signs the moment of each call, and the SuperLink refuses one that is more than 5 s ahead of its own clock or
305 s behind it (flwr 1.34: SYSTEM_TIME_TOLERANCE and TIMESTAMP_TOLERANCE in flwr/common/constant.py). A car without a
time service would be shut out. The server tells the agent its time in every answer to a report; counted on from there
by the clock since the boot, which nobody sets, it is right whatever happens to this machine's own. Nothing is replaced
in a Flower that is not as known. Imports Flower only when asked to change it.
"""

import importlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from fleven_agent.warm.flower_internals import FlowerInternals, NotRecognisedError
from fleven_agent.warm.pace_file import PaceFile


def sign_by_server_clock(flower: FlowerInternals, file: PaceFile) -> None:
    """Let this process sign by the clock that ``file`` names; raises ``NotRecognisedError``, leaving all as it is."""
    try:
        module = importlib.import_module(flower.signing_module)
        own = getattr(importlib.import_module(flower.clock_module), flower.clock_function)
    except (ImportError, AttributeError) as error:
        raise NotRecognisedError(f"calls are signed in an unknown way ({error})") from error
    if module.__dict__.get(flower.clock_function, Ellipsis) is not own:
        raise NotRecognisedError(f"{flower.signing_module} takes the time from elsewhere")
    module.__dict__[flower.clock_function] = _server_clock(own, file)


def _server_clock(own: Callable[[], datetime], file: PaceFile) -> Callable[[], datetime]:
    lock = threading.Lock()  # heartbeats and questions are signed in threads of their own

    def now() -> datetime:
        with lock:
            at_boot = file.wanted.server_time_at_boot_seconds
        if at_boot is None:
            return own()
        return datetime.fromtimestamp(at_boot + time.clock_gettime(time.CLOCK_BOOTTIME), UTC)

    return now
