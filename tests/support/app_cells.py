"""Cells of ServerApps without systemd: the same keeper for each connection, without a sandbox.

Shows that runs go through cells, not that they are kept apart: that, the tests on machines show.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

KEEPER = (
    "import sys; from fleven_agent.common.cell.single import main; "
    "sys.exit(main(['--root', sys.argv[1], '--address-option=--serverappio-api-address', '--connection', sys.argv[2]], "
    "problem=sys.argv[3]))"
)


class AppCells:
    """Listens as `fleven-app.socket` does.

    Args:
        folder: for the socket and the cells' folders.
        problem: what the cells say is wrong with their sandbox.
    """

    def __init__(self, folder: Path, problem: str = "") -> None:
        self.path = folder / "cell.sock"
        self.keepers: list[subprocess.Popen[bytes]] = []
        self.roots: list[Path] = []
        self._folder = folder
        self._problem = problem
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            root = self._folder / f"cell-{len(self.roots)}"
            root.mkdir()
            self.roots.append(root)
            with connection, (root.parent / f"{root.name}.log").open("wb") as log:
                number = connection.fileno()
                command = [sys.executable, "-Iu", "-c", KEEPER, str(root), str(number), self._problem]
                self.keepers.append(
                    subprocess.Popen(command, pass_fds=(number,), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                )

    def close(self) -> None:
        """End all cells."""
        self._listener.close()
        for keeper in self.keepers:
            keeper.kill()
            keeper.wait()
