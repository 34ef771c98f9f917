"""What another user than root may run here."""

import os
import shutil
import subprocess
import sys


def others_can_run_this_python() -> bool:
    """Tell whether user nobody can start this Python: one below root's home, as pyenv has it, is closed to others."""
    if shutil.which("setpriv") is None:
        return False
    # Through a shell: setpriv itself still has root's capabilities when it starts its program.
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", 'exec "$0" -c ""']
    return subprocess.run([*command, sys.executable], capture_output=True, check=False).returncode == 0


def python_for_others() -> tuple[str, dict[str, str]] | None:
    """Return a Python that user nobody can start, with the environment in which it finds what this one has.

    This one, or the system's when that is of the same minor version; None when there is no such.
    """
    if others_can_run_this_python():
        return sys.executable, {}
    system = f"/usr/bin/python3.{sys.version_info.minor}"
    found = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path and not path.startswith("/root"))}
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", system, "-c", "import fleven, typer"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, cwd="/", env={**os.environ, **found})
    except OSError:
        return None
    return (system, found) if done.returncode == 0 else None
