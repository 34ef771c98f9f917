"""The table of ports in docs/how-it-works.md tells what the code really binds and connects to."""

import re
from pathlib import Path

from fleven.demo import files
from fleven.server.config.settings import ServerConfig
from fleven_agent.config.parser import DEFAULT_REPORT_PORT
from fleven_agent.config.settings import Settings


def documented_ports(repository: Path) -> dict[int, str]:
    """Return port → address bound to by default, from the table under the heading "Ports"."""
    text = (repository / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    section = text.split("\n## Ports\n", 1)[1].split("\n## ", 1)[0]
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in section.splitlines() if re.match(r"\| \d", line)]
    return {int(row[0]): row[-1] for row in rows}


def test_the_documented_ports_are_the_defaults_of_the_code(repository: Path) -> None:
    server = ServerConfig()
    addresses = [
        server.superlink.serverappio_address,
        server.superlink.fleet_address,
        server.superlink.control_address,
        Settings(partition_id=0, superlink="100.64.0.1:9092").clientapp_address,
        server.web.address,
    ]
    bound = {int(address.rpartition(":")[2]): address.rpartition(":")[0] for address in addresses}
    assert documented_ports(repository) == bound


def test_the_agent_reports_to_the_port_of_the_server() -> None:
    assert ServerConfig().web.address.endswith(f":{DEFAULT_REPORT_PORT}")


def test_the_demonstration_uses_the_documented_ports(repository: Path) -> None:
    used = {*files.SERVER_PORTS.values(), files.FIRST_CLIENTAPP_PORT}
    assert used == set(documented_ports(repository))
