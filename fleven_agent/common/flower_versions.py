"""The one place for the range of Flower's versions that FLEVEn knows. Imports the standard library only.

What differs between Flower's lines is in `fleven_agent.supernode.flower` and `fleven.server.flower.line`.
`pyproject.toml` holds the same range for pip; a test keeps the two together.
"""

LOWEST = (1, 31)
"""First release line (major, minor) with separate ports for the Fleet, Control, ServerAppIo and ClientAppIo APIs."""
BELOW = (1, 35)
"""First release line that moves these APIs together."""
REQUIREMENT = f"flwr>={LOWEST[0]}.{LOWEST[1]},<{BELOW[0]}.{BELOW[1]}"
"""For pip."""
RANGE_TEXT = f"{LOWEST[0]}.{LOWEST[1]} to {BELOW[0]}.{BELOW[1] - 1}"
"""For people."""
INSTALL_HINT = f"pip install '{REQUIREMENT}'"


def release_line(version: str) -> tuple[int, int] | None:
    """Return (major, minor) of a version such as `1.34.0`; None when it does not begin with two numbers."""
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def differ(one: str | None, other: str | None) -> bool:
    """Return whether both versions are known and are of different release lines (1.34.0 and 1.34.2 are of one)."""
    return bool(one and other) and (one or "").split(".")[:2] != (other or "").split(".")[:2]


def train_together(one: str, other: str) -> bool:
    """Return whether a node and a SuperLink of these versions are known to take part in one run.

    Flower's Fleet API refuses no other minor version; what a version outside the range does, nobody has tried.
    """
    return not differ(one, other) or (is_supported(one) and is_supported(other))


def is_supported(version: str) -> bool:
    """Return whether FLEVEn knows the command lines, log lines and exit codes of this version."""
    line = release_line(version)
    return line is not None and LOWEST <= line < BELOW
