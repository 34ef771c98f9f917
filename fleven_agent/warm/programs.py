"""The folder that stands first on SuperNode's PATH: small scripts named like Flower's programs.

SuperNode starts ``flower-superexec`` by name, and that starts ``flwr-clientapp`` by name; so a program of that name
earlier on PATH is a way in that needs nothing but Flower's command line. The scripts are written at start, since they
name the interpreter and the agent's folders. Imports the standard library only.
"""

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

CLIENTAPP = "flwr-clientapp"
SUPEREXEC = "flower-superexec"
SUPERNODE = "flower-supernode"
PROGRAMS = (CLIENTAPP, SUPEREXEC, SUPERNODE)


def write_programs(folder: Path, *, runtime_directory: Path, names: Iterable[str], interpreter: str) -> Path:
    """Write the programs ``names`` into ``folder``, remove others of ours, and return the absolute folder.

    Raises ``OSError`` when the folder cannot be written.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    wanted = set(names)
    for name in PROGRAMS:
        target = folder / name
        if name not in wanted:
            target.unlink(missing_ok=True)
            continue
        text = _script(name, folder, runtime_directory.absolute(), interpreter)
        if target.is_file() and os.access(target, os.X_OK) and target.read_text(encoding="utf-8") == text:
            continue
        temporary = folder / f".{name}.new"
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o755)
        temporary.replace(target)
    return folder


def _script(name: str, folder: Path, runtime_directory: Path, interpreter: str) -> str:
    """Return a script that is both shell and Python's argument, so that no length or blank of a path matters."""
    here = Path(__file__).parent
    if name == CLIENTAPP:
        # -I -S: no site-packages and no user settings; the launcher needs the standard library only and starts in 15 ms.
        command = [interpreter, "-I", "-S", str(here / "launcher.py"), str(runtime_directory), str(folder)]
        return f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n'
    # The interpreter reads this very file again as Python, so that the process shows Flower's own name as its program.
    return (
        "#!/bin/sh\n"
        f"'''exec' {shlex.quote(interpreter)} \"$0\" \"$@\"\n"
        "'''\n"
        "import sys\n\n"
        "from fleven_agent.warm.polling import run_program\n\n"
        'if __name__ == "__main__":\n'
        f"    sys.exit(run_program({name!r}))\n"
    )
