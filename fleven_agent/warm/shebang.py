"""Which interpreter a program asks for in its first line, and with which flags. Standard library only.

A fork of this Python can only be a program that would have been run by this Python, with the same flags.
"""

import os
from pathlib import Path


def interpreter_of(program: str) -> tuple[str, str]:
    """Return interpreter and flags of a script as Linux reads them; two empty texts when it is no script.

    Linux splits the line once: all behind the first blank is one argument (fs/binfmt_script.c).
    """
    try:
        with Path(program).open("rb") as stream:
            line = stream.readline(256)
    except OSError:
        return "", ""
    if not line.startswith(b"#!"):
        return "", ""
    interpreter, _, flags = os.fsdecode(line[2:]).strip().partition(" ")
    return interpreter, flags.strip()


def is_python_program(program: str, prefix: str) -> bool:
    """Say whether ``program`` is a script of the Python installed at ``prefix`` (a virtual environment or a root)."""
    interpreter = Path(interpreter_of(program)[0])
    return (
        interpreter.name.startswith("python")
        and interpreter.is_absolute()
        and os.path.realpath(interpreter.parent.parent) == os.path.realpath(prefix)
    )
