"""The way to an address: the kernel's answer on this machine, tables of routes, names of networks."""

from pathlib import Path

import pytest

from fleven_agent.system import way

ROUTES = """Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wwan0\t00000000\t0100000A\t0003\t0\t0\t700\t00000000\t0\t0\t0
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
wlan0\t0001A8C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0
"""
ROUTES6 = f"{'0' * 32} 00 {'0' * 32} 00 fe80{'0' * 27}1 00000400 00000001 00000000 00450003     eth0\n" + (
    f"{'0' * 32} 00 {'0' * 32} 00 {'0' * 32} ffffffff 00000001 00000000 00200200       lo\n"
)


def test_the_kernel_tells_the_interface_of_loopback() -> None:
    assert way.interface_to("127.0.0.1") == "lo"


def test_the_preferred_default_route_comes_first() -> None:
    assert way.default_interfaces(ROUTES, ROUTES6) == ["wlan0", "wwan0", "eth0"]
    assert way.default_interfaces("", "") == []


def test_a_tunnel_is_told_from_a_modem(tmp_path: Path) -> None:
    for name, kind, device in [("tailscale0", "65534", False), ("wwan0", "65534", True), ("wlan0", "1", True)]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "type").write_text(f"{kind}\n")
        if device:
            (tmp_path / name / "device").mkdir()
    found = [way.is_tunnel(name, tmp_path) for name in ("tailscale0", "wwan0", "wlan0", "gone")]
    assert found == [True, False, False, False]


def test_names_of_connections_are_read_with_their_escapes() -> None:
    output = "wlan0:Home WiFi\nwwan0:Mobile\\: 5G\nlo:lo\n:nothing\n"
    assert way.connection_names(output) == {"wlan0": "Home WiFi", "wwan0": "Mobile: 5G", "lo": "lo"}


def test_names_are_looked_for_only_when_interfaces_are_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    finder = way.WayFinder(lambda: now[0])
    asked: list[str] = []

    def names() -> dict[str, str]:
        asked.append("nmcli")
        return {"lo": "Home WiFi"}

    monkeypatch.setattr(way, "manager_names", names)
    assert finder.find("127.0.0.1", ("lo",)) == way.Way(("lo",))
    assert asked == []
    assert finder.find("127.0.0.1", ("Home WiFi",)) == way.Way(("lo", "Home WiFi"))
    assert finder.find("127.0.0.1", ("Home WiFi",)) == way.Way(("lo", "Home WiFi"))
    assert asked == ["nmcli"]
    now[0] = way.NAMES_LAST_SECONDS
    assert finder.find("127.0.0.1", ("Home WiFi",)) == way.Way(("lo", "Home WiFi"))
    assert asked == ["nmcli", "nmcli"]
