"""Starts a program with its token in a file without a name instead of in the command line.

A token in an argv is read by every user of the machine, and whoever has it answers in the car's name, or steers a run.
Flower's own programs read it from a file as well: here from one in memory, passed as an open descriptor. Standard
library only.
"""

import os
import subprocess
from collections.abc import Sequence
from typing import Any


class HiddenTokens:
    """Stands for the module ``subprocess`` in Flower's executor; only ``Popen`` differs."""

    def Popen(self, arguments: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":  # noqa: N802
        """Start a program with its token in a file without a name instead of ``--token TOKEN``."""
        changed = list(arguments)
        if "--token" not in changed[:-1]:
            return subprocess.Popen(changed, **options)
        at = changed.index("--token")
        held = os.memfd_create("token", os.MFD_CLOEXEC)
        try:
            os.write(held, changed[at + 1].encode())
            changed[at : at + 2] = ["--token-file", f"/proc/self/fd/{held}"]
            passed = (held, *options.pop("pass_fds", ()))
            return subprocess.Popen(changed, pass_fds=passed, **options)
        finally:
            os.close(held)

    def __getattr__(self, name: str) -> object:
        return getattr(subprocess, name)
