"""The words of the warm launcher: modes, states, and why a task started cold or the warm process is not there.

Values are written to files, reports and logs, so they never change once shipped. Imports nothing but ``enum``.
"""

from enum import StrEnum


class WarmMode(StrEnum):
    """What node.toml asks for."""

    AUTO = "auto"  # on where the board has the memory for it
    ON = "on"
    OFF = "off"


class WarmState(StrEnum):
    """What there is at the moment."""

    OFF = "off"  # switched off, or the board is too small; tasks start as Flower starts them
    ABSENT = "absent"  # left after idling or under memory pressure; comes back with the next task
    WARMING = "warming"  # importing; tasks that come now wait for it
    READY = "ready"  # tasks are handed to it
    BACKOFF = "backoff"  # it ended unasked; the next start is timed


class WarmReason(StrEnum):
    """Why the warm process is, or is not, there."""

    ENABLED = "enabled"
    SWITCHED_OFF = "switched-off"
    MEMORY_TOO_SMALL = "memory-too-small"
    KERNEL_TOO_OLD = "kernel-too-old"
    FLOWER_NOT_FOUND = "flower-not-found"
    FOLDER_UNUSABLE = "folder-unusable"
    IDLE = "idle"
    MEMORY_PRESSURE = "memory-pressure"
    PARENT_GONE = "parent-gone"
    STOPPED = "stopped"
    CRASHED = "crashed"


class Fallback(StrEnum):
    """Why a task was started by Flower's own ``flwr-clientapp`` although the launcher was asked."""

    ABSENT = "absent"  # no warm process listens: it left, or it was never started
    TIMEOUT = "timeout"  # it did not take the task in time
    ENDED = "ended"  # it, or the forked task, went away before the task began
    FOREIGN = "foreign"  # the socket belongs to another user
    ENVIRONMENT = "environment-differs"  # a variable, limit or interpreter that matters at import differs
    MEMORY = "memory-pressure"  # too little memory for a fork with comfort
    THREADS = "threads"  # the warm process has more than one thread, so a fork would not be safe
    MODULES = "app-modules"  # an app's module was found loaded, so a fork could run old code
    SETUP = "setup-failed"  # the forked task could not take over descriptors, folder or environment
    ERROR = "error"  # anything else
