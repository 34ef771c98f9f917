"""Describes the machine that a benchmark ran on, without naming it."""

import importlib.metadata
import os
import platform
from pathlib import Path


def describe() -> dict[str, str | int]:
    """Return processor, cores, memory, system and the versions that matter."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "architecture": platform.machine(),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "flwr": importlib.metadata.version("flwr"),
        "torch": importlib.metadata.version("torch"),
        "load_average_at_end": f"{os.getloadavg()[0]:.1f}",
    }


def processor() -> str:
    """Return the processor's name as Linux gives it, or the board's."""
    for path, key in (("/proc/cpuinfo", "model name"), ("/proc/cpuinfo", "Model")):
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return platform.processor() or "unknown"
