"""Giving back the memory that the warm process does not need. Standard library only."""

import ctypes
import gc
import re
from pathlib import Path

CODE_MAPPING = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) r-xp \S+ \S+ [1-9]\d* .*\n"
    r"(?:(?!^[0-9a-f]+-)(?!Private_Dirty).*\n)*Private_Dirty:\s+0 kB$",
    re.MULTILINE,
)
MADV_DONTNEED = 4


def settle() -> None:
    """Make this process cheap to fork and to keep: garbage collected and frozen, free memory and code pages given back.

    Frozen objects are left alone by later collections, which would otherwise write to, and so copy, their pages in
    every task. The pages of programs and libraries are only unmapped: they stay in the page cache, and a task maps
    what it runs again by itself (fork does not copy those mappings anyway).
    """
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
