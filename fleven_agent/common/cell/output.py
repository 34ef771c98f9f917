"""What a task prints, behind a mark on each line: the supervisor steers by what SuperNode prints on the same pipe.

A task of its own user has no way to that pipe: the program that stands for it reads what it prints, and passes it on. A
line and its mark are one write of a size that the kernel writes whole (pipe(7), PIPE_BUF), so that nothing that a task
prints ever stands at the beginning of a line without one. Light imports only, see ``asking``.
"""

from __future__ import annotations

import os
import select

MARK = "\x02"
VARIABLE = "FLEVEN_TASK_MARK"
"""Whether lines are marked; set by the supervisor that knows the mark."""
WHOLE_BYTES = 4096
"""A write to a pipe of at most so many bytes is not mixed with others."""
READ_BYTES = 65_536


class MarkedOutput:
    """A pipe whose content is passed on.

    Args:
        target: descriptor that the lines go to.

    Attributes:
        read: its end for this process, which does not block.
        write: its end for the task; to be closed here when the task has it.
    """

    def __init__(self, target: int) -> None:
        self.read, self.write = os.pipe()
        os.set_blocking(self.read, False)
        self._target = target
        self._rest = b""

    def pass_on(self) -> bool:
        """Pass on the lines that are there; return False when nobody can print any more."""
        try:
            chunk = os.read(self.read, READ_BYTES)
        except BlockingIOError:
            return True
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._say(line)
        while len(self._rest) > READ_BYTES or (self._rest and not chunk):
            self._say(self._rest[:READ_BYTES])
            self._rest = self._rest[READ_BYTES:]
        return bool(chunk)

    def end(self) -> None:
        """Pass on what is there still; a process that the task has left behind may have the other end."""
        while select.select([self.read], [], [], 0)[0] and self.pass_on():
            pass
        if self._rest:
            self._say(self._rest)

    def _say(self, line: bytes) -> None:
        mark = MARK.encode()
        size = WHOLE_BYTES - len(mark) - 1
        for begin in range(0, max(1, len(line)), size):
            try:
                os.write(self._target, mark + line[begin : begin + size] + b"\n")
            except BrokenPipeError:
                return  # nobody listens any more
