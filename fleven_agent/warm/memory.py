"""What Linux says about memory, and how the warm process frees what it does not need.

Standard library only, and light: the agent imports it.
"""

import gc
import os
import re
from pathlib import Path

# More than a fifth of the last ten seconds lost to waiting for memory by some task: the board is thrashing.
PRESSURE_SOME_PERCENT = 20.0


def available_bytes(path: Path = Path("/proc/meminfo")) -> int | None:
    """Return MemAvailable: what programs can still get without swapping; None when Linux does not say."""
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB", path.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def pressure_percent(path: Path = Path("/proc/pressure/memory")) -> float:
    """Return the share of the last 10 s in which some task waited for memory (PSI); 0 when the kernel has no PSI."""
    try:
        match = re.search(r"^some avg10=([\d.]+)", path.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return 0.0
    return float(match[1]) if match else 0.0


def is_short(minimum_available_bytes: int) -> bool:
    """Return whether memory is so short that the warm process should leave."""
    available = available_bytes()
    return (available is not None and available < minimum_available_bytes) or (
        pressure_percent() > PRESSURE_SOME_PERCENT
    )


def proportional_bytes(process_id: int | str = "self") -> int | None:
    """Return the proportional set size (PSS) of a process: its own pages plus its share of shared ones."""
    try:
        text = Path(f"/proc/{process_id}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return None
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def holds_more_than(maximum_bytes: int) -> bool:
    """Whether the proportional set size of this process is above ``maximum_bytes``.

    Linux takes milliseconds to add it up, so the resident set size is asked first: cheap, and never less. It alone
    would count in full what torch's library shares with the tasks.
    """
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    return resident > maximum_bytes and (proportional_bytes() or resident) > maximum_bytes


CODE_MAPPING = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ [1-9]\d* .*\n"
    r"(?:(?!^[0-9a-f]+-)(?!Private_Dirty).*\n)*Private_Dirty:\s+0 kB$",
    re.MULTILINE,
)
MADV_DONTNEED = 4
M_ARENA_MAX = -8  # malloc.h of glibc


def settle() -> None:
    """Make this process cheap to fork and to keep: garbage collected and frozen, free memory and code pages returned.

    Frozen objects are left alone by later collections, which would otherwise write to, and so copy, their pages in
    every task. The pages of programs and libraries are only unmapped: they stay in the page cache, and a task maps
    what it runs again by itself (fork does not copy those mappings anyway).
    """
    import ctypes  # only the warm process settles; the agent asks about memory alone

    gc.unfreeze()
    gc.collect()
    gc.freeze()
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    # Only mappings of files that nobody wrote to: what was written (text relocations) exists nowhere else.
    for match in CODE_MAPPING.finditer(Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace")):
        start, end = int(match[1], 16), int(match[2], 16)
        libc.madvise(start, end - start, MADV_DONTNEED)


def one_heap() -> None:
    """Let all threads of this process share one heap: those of gRPC sleep, and each would keep a heap of its own."""
    import ctypes

    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)
