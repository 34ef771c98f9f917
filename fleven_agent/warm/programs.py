"""The folder that stands first on SuperNode's PATH: small scripts named like Flower's programs.

SuperNode starts ``flower-superexec`` by name, and that starts ``flwr-clientapp`` by name; so a program of that name
earlier on PATH is a way in that needs nothing but Flower's command line. The scripts are written at start, since they
name the interpreter and the agent's folders. A fork of this Python can only be a program that this Python would have
run, with the same flags: those are in the first line of Flower's own program. Imports the standard library only.
"""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import fleven_agent

CLIENTAPP = "flwr-clientapp"
SUPEREXEC = "flower-superexec"
SUPERNODE = "flower-supernode"
RUNTIME_ADDRESS_OPTION = "--clientappio-api-address"
PROGRAMS = (CLIENTAPP, SUPEREXEC, SUPERNODE)


def write_programs(
    folder: Path,
    *,
    runtime_directory: Path,
    flags: Mapping[str, str],
    interpreter: str,
    cell_socket: Path | None = None,
    shorter_waits: bool = True,
) -> Path:
    """Write the programs that ``flags`` names into ``folder``, remove others of ours, and return the absolute folder.

    ``flags``: by program, the interpreter's flags, which are those of Flower's own program. ``cell_socket``: where
    tasks run isolated from the machine, that cell's. ``shorter_waits``: in SuperNode and executor. Raises ``OSError``
    when the folder cannot be written.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    for name in PROGRAMS:
        target = folder / name
        if name not in flags:
            target.unlink(missing_ok=True)
            continue
        call = f"main({str(runtime_directory.absolute())!r}, {str(folder)!r})"
        module = "fleven_agent.warm.launcher"
        if cell_socket is not None:
            module = "fleven_agent.common.cell.stand_in"
            call = f"main({CLIENTAPP!r}, {RUNTIME_ADDRESS_OPTION!r}, {str(cell_socket)!r}, {str(folder)!r})"
        if name != CLIENTAPP:
            module = "fleven_agent.warm.polling"
            call = f"sys.exit(run_program({name!r}, {str(folder)!r}, shorter_waits={shorter_waits}))"
        text = _script(name, interpreter, flags[name], module, call)
        if target.is_file() and os.access(target, os.X_OK) and target.read_text(encoding="utf-8") == text:
            continue
        temporary = folder / f".{name}.new"
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o755)
        temporary.replace(target)
    return folder


def _script(name: str, interpreter: str, flags: str, module: str, call: str) -> str:
    """Return the text of one program; raises ``OSError`` when Linux could not start ``interpreter`` from it.

    ``module`` and ``call`` say what it does.

    The interpreter stands directly in the first line: a shell between would change the environment (PWD, SHLVL).
    """
    # Linux reads 255 bytes of that line, and splits it once, at the first blank (fs/binfmt_script.c).
    if len(os.fsencode(interpreter)) > 240 or any(character.isspace() for character in interpreter):
        raise OSError(errno.EINVAL, "the interpreter's path is too long or has a blank", interpreter)
    if name == CLIENTAPP:
        # -I -S: the launcher needs the standard library only, and starts in a third of the time without site-packages.
        packages = str(Path(fleven_agent.__file__).parent.parent)
        return (
            f"#!{interpreter} -IS\nimport sys\n\nsys.path.append({packages!r})\nfrom {module} import main\n\n{call}\n"
        )
    return f"#!{interpreter} {flags}".rstrip() + f"\nimport sys\n\nfrom {module} import run_program\n\n{call}\n"


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
    """Return whether ``program`` is a script of the Python at ``prefix`` (a virtual environment or a root)."""
    interpreter = Path(interpreter_of(program)[0])
    return (
        interpreter.name.startswith("python")
        and interpreter.is_absolute()
        and os.path.realpath(interpreter.parent.parent) == os.path.realpath(prefix)
    )
