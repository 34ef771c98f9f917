"""What keeps a process of a cell apart: from the machine, by its unit; from tasks of the same user, by the kernel.

Standard library only; looks and sets, and decides nothing.
"""

import ctypes
import os
from pathlib import Path

PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36


def isolation_problem() -> str:
    """Return what of the sandbox is missing; empty when the process is isolated from the machine."""
    if os.getuid() == 0:
        return "it runs as root"
    devices = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()[2:]
    if names := [line.partition(":")[0].strip() for line in devices if not line.strip().startswith("lo:")]:
        return f"it has the network devices {', '.join(names)}"
    status = Path("/proc/self/status").read_text(encoding="ascii")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    if int(facts.get("CapBnd", "0"), 16) or facts.get("NoNewPrivs") != "1":
        return "it could gain privileges"
    return "" if facts.get("Seccomp") == "2" else "its system calls are not filtered"


def process_control(option: int, value: int) -> None:
    """Call prctl(2); raises ``OSError``."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")
