"""What another user than root may run here."""

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
