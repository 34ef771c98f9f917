"""Which users reach Flower's ports: what the check says of the package's table."""

import re
from pathlib import Path

import pytest

from fleven_agent.common.firewall import Found, problem

UNIT = "fleven-node-firewall.service"


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Found(True, True, True, True), ""),
        (Found(True, True, True, None), ""),
        (Found(True, True, None, None), ""),
        (Found(True, False, False, None), "nftables is not installed"),
        (Found(True, True, False, None), "is not active"),
        (Found(True, True, True, False), "is gone"),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(found: Found, text: str) -> None:
    answer = problem(found, UNIT, "port 9094")
    assert (answer is None) == (not text)
    if answer is not None:
        assert text in answer[0]
        assert "every user of this machine reaches port 9094" in answer[0]
        assert f"systemctl restart {UNIT}" in answer[1]


@pytest.mark.parametrize(
    ("role", "ports", "user"), [("node", "9094-9096", "fleven"), ("server", "{ 9091, 9093 }", "fleven-server")]
)
def test_the_tables_let_in_root_and_the_service_alone(repository: Path, role: str, ports: str, user: str) -> None:
    text = (repository / f"systemd/{role}-firewall.nft").read_text(encoding="utf-8")
    (rule,) = re.findall(r"^\s*oifname.*$", text, re.MULTILINE)
    wanted = f'oifname "lo" tcp dport {ports} meta skuid != {{ "root", "{user}" }} counter reject with tcp reset'
    assert rule.strip() == wanted
    unit = (repository / f"systemd/fleven-{role}-firewall.service").read_text(encoding="utf-8")
    assert f"/usr/lib/fleven/{role}/{role}-firewall.nft" in unit
    table = re.search(r"delete table inet (\S+)", unit)
    assert table is not None
    assert f"table inet {table[1]} {{" in text
