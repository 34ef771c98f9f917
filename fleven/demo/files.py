"""The demonstration's folders and configuration files, and the result of its run.

Why it exists: the files are what an operator would write for one machine, in one place. Must not import torch,
pandas or flwr.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

SERVER_PORTS = {
    "ServerAppIo API": 9091,
    "Fleet API": 9092,
    "Control API": 9093,
    "report API and page": 9190,
}
FIRST_CLIENTAPP_PORT = 9094
PLOTS_LIMIT_SECONDS = 30.0


class DemoError(Exception):
    """The demonstration cannot go on; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class Folders:
    """Where one demonstration keeps its files; everything lies below ``root``."""

    root: Path

    @property
    def data(self) -> Path:
        """Trips of all cars, ``client_<n>`` each."""
        return self.root / "data"

    @property
    def server(self) -> Path:
        """State folder of SuperLink and server."""
        return self.root / "server"

    @property
    def authority(self) -> Path:
        """Certificate of the server's own authority."""
        return self.server / "trust" / "ca.crt"

    @property
    def logs(self) -> Path:
        """Output of every process."""
        return self.root / "logs"

    @property
    def server_config(self) -> Path:
        """The server's configuration file."""
        return self.root / "server.toml"

    @property
    def state(self) -> Path:
        """What ``--stop`` needs to know of a demonstration that was left running."""
        return self.root / "demo.json"

    def car(self, partition_id: int) -> Path:
        """Return the folder of one car's agent."""
        return self.root / f"car-{partition_id}"


def write_server_configuration(folders: Folders) -> None:
    """Write the server.toml of a server that only this machine reaches."""
    folders.server.mkdir(parents=True)
    folders.server_config.write_text(
        "# Written by fleven demo: a server that only this machine reaches.\n"
        "[superlink]\n"
        # The demo's own app, as the same user: there is no cell outside the packages.
        'server-app-cell = "off"\n'
        f'fleet-address = "127.0.0.1:{SERVER_PORTS["Fleet API"]}"\n'
        "[web]\n"
        f'address = "127.0.0.1:{SERVER_PORTS["report API and page"]}"\n',
        encoding="utf-8",
    )


def write_node_configuration(folders: Folders, partition_id: int, cars: int) -> Path:
    """Write the node.toml of one car and return its path."""
    folder = folders.car(partition_id)
    folder.mkdir(parents=True)
    config = folder / "node.toml"
    config.write_text(
        f"# Written by fleven demo for car {partition_id}.\n"
        f"partition-id = {partition_id}\n"
        f'superlink = "127.0.0.1:{SERVER_PORTS["Fleet API"]}"\n'
        f"num-partitions = {cars}\n"
        f'node-name = "car-{partition_id}"\n'
        f'clientapp-address = "127.0.0.1:{FIRST_CLIENTAPP_PORT + partition_id}"\n'
        f'data-path = "{folders.data / f"client_{partition_id}"}"\n'
        # The demo's own app, as the same user: there is no cell outside the packages.
        '[cell]\nmode = "off"\n',
        encoding="utf-8",
    )
    return config


def read_result(folders: Folders, exit_code: int) -> dict[str, Any]:
    """Read the result.json of the only run.

    Raises:
        DemoError: the run ended without one.
    """
    found = sorted(folders.server.glob("metrics/*/*/result.json"))
    if not found:
        raise DemoError(f"the run ended without a result (exit code {exit_code}; logs: {folders.logs})")
    result: dict[str, Any] = json.loads(found[-1].read_text(encoding="utf-8"))
    # A run has ended when its result is there; its plots come a moment later.
    end = time.monotonic() + PLOTS_LIMIT_SECONDS
    while not all(Path(plot).exists() for plot in result["plots"]) and time.monotonic() < end:
        time.sleep(0.1)
        result = json.loads(found[-1].read_text(encoding="utf-8"))
    result["result_path"] = str(found[-1])
    return result
