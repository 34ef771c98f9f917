"""By which names and addresses a machine is reached."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fleven.server.trust import names
from fleven.server.trust.names import MachineNames
from fleven_agent.common import tailscale


def test_the_certificate_holds_for_all_that_a_car_may_ask_for() -> None:
    machine = MachineNames("pc", "pc.lab.example", ("192.0.2.5", "100.64.0.9"), "pc.tail.ts.net")
    certified = machine.certified(["fleet.example"])
    assert certified == {
        *("fleven-server", "localhost", "127.0.0.1", "::1", "pc", "pc.lab.example", "192.0.2.5", "100.64.0.9"),
        *("pc.tail.ts.net", "fleet.example"),
    }


def test_a_host_name_that_no_certificate_can_hold_is_left_out() -> None:
    assert MachineNames("büro pc", "büro pc", (), "").certified() == names.ALWAYS


def test_cars_try_what_the_operator_said_first_then_the_tailnet_then_the_rest() -> None:
    machine = MachineNames("pc", "pc.lab.example", ("10.0.0.1", "2001:db8::5", "100.64.0.9"), "pc.tail.ts.net")
    found = machine.reachable(["*.example", "fleet.example"])
    assert found == ["fleet.example", "pc.tail.ts.net", "100.64.0.9", "10.0.0.1", "2001:db8::5", "pc.lab.example"]
    assert MachineNames("pc", "pc", (), "").reachable() == ["pc"]


def test_addresses_that_the_kernel_gives_up_again_are_known(tmp_path: Path) -> None:
    table = tmp_path / "if_inet6"
    table.write_text(
        "20010db8000000000000000000000005 02 40 00 80 eth0\n20010db80000000000000000000000aa 02 40 00 01 eth0\nbroken\n"
    )
    assert names.temporary_addresses(table) == {"2001:db8::aa"}
    assert names.temporary_addresses(tmp_path / "none") == frozenset()


def test_this_machine_has_names() -> None:
    found = names.machine_names()
    assert found.host
    assert not any(address.startswith(("127.", "fe80")) for address in found.addresses)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            {"BackendState": "Running", "Self": {"DNSName": "PC.tail.ts.net.", "KeyExpiry": "2027-01-02T03:04:05Z"}},
            tailscale.TailscaleStatus("pc.tail.ts.net", datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ),
        ({"BackendState": "Running", "Self": {"DNSName": ""}}, tailscale.TailscaleStatus("", None)),
        (
            {"BackendState": "Running", "Self": {"DNSName": 3, "KeyExpiry": "soon"}},
            tailscale.TailscaleStatus("", None),
        ),
        ({"BackendState": "NeedsLogin", "Self": {"DNSName": "pc."}}, None),
        ({"BackendState": "Running"}, None),
        ([], None),
    ],
)
def test_what_tailscale_says(document: object, expected: object) -> None:
    assert tailscale.read_status(document) == expected
