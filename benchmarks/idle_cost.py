"""What a car costs that waits: bytes on the wire, processor, memory and writes to its disk, stock SuperNode beside it.

    benchmarks/idle_cost.py --debs FOLDER [--seconds 720] [--json FILE]

Boots a server and one machine for each kind of car from the packages (`tests/machines/testbed`; root, Debian 12 or
newer): FLEVEn as installed with a warm process, FLEVEn with `metered = true` and warm off, a stock SuperNode over TLS
with a key, and a machine with nothing of either. One run of the default app teaches the warm process what it needs;
then everything is started again, so that every interval is at its longest at once: after a run SuperNode's questions
reach it only after forty minutes. Then nothing happens for --seconds. The clocks of the machines count as synchronised,
as on a board with systemd-timesyncd: a file of that service stands in for it.

Traffic is every packet of the machine's interface from the header of IP on (`wire.py`). Writes are those of the
machine's own disk (ext4, with its journal), without those of the machine that has nothing; beside them what each
program has dirtied. Memory is what all processes of the service's users take together: a page that several of them
share counts once (PSS), and one of a file that other machines of the bed have mapped as well counts in full.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/machines"))

import machine as host
import wire
from testbed.base import host_architecture
from testbed.bed import Bed
from testbed.fleet import AUTHORITY, Fleet, install, together
from testbed.machine import Machine
from testbed.shell import run, wait_for

DAY_SECONDS = 86_400
DISK_MEGABYTES = 3_000
SETTLE_SECONDS = 75
"""After the start: registration, the first reports, the first scan of the trips, the warm process's imports."""
SUPERLINK_PORT, REPORTS_PORT = 9092, 9190
SERVICE_USERS = ("fleven", "fleven-task")
STOCK_UNIT = "stock-supernode"
SYNCHRONISED = "/run/systemd/timesync/synchronized"
MAKE_KEY = """
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP384R1())
open("/etc/stock.key", "wb").write(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption()))
print(key.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH).decode())
"""
PYTHON = "/usr/lib/fleven/node/bin/python3"


@dataclass
class Car:
    """A machine and how it is configured.

    Attributes:
        kind: what it is, for the table.
        machine: that it runs on.
        lines: of node.toml; None for one without an agent.
    """

    kind: str
    machine: Machine
    lines: tuple[str, ...] | None = None


# ---------------------------------------------------------------- the machines


def installed_layer(bed: Bed, machine: Machine, debs: Path, role: str) -> Path:
    """Install a package once and keep the disk as a layer; the machine goes."""
    bed.start(machine)
    install(machine, f"{debs.name}/{sorted(debs.glob(f'fleven-{role}_*.deb'))[-1].name}")
    machine.power_off()
    layer = bed.snapshot(machine, role)
    machine.remove()
    return layer


def boot(bed: Bed, debs: Path) -> tuple[Fleet, list[Car]]:
    """Boot the server and all cars; no service of ours runs on the cars yet."""
    first = {role: bed.add(f"{role}0", bind=[debs]) for role in ("server", "node")}
    jobs = [lambda role=role: installed_layer(bed, first[role], debs, role) for role in first]
    layers = dict(zip(first, together(*jobs), strict=True))
    bed.machines.clear()

    def car(name: str, *, with_package: bool = True) -> Machine:
        below = [layers["node"]] if with_package else []
        return bed.add(name, bind=[debs], layers=below, disk_megabytes=DISK_MEGABYTES)

    server = bed.add("server", bind=[debs], layers=[layers["server"]])
    cars = [
        Car("fleven", car("n1"), ("[warm]", 'mode = "on"')),
        Car("metered", car("n2"), ("metered = true", "[warm]", 'mode = "off"')),
        Car("stock", car("stock")),
        Car("nothing", car("bare", with_package=False)),
    ]
    fleet = Fleet(bed, debs, server, [one.machine for one in cars if one.lines is not None])
    bed.start(server, *(one.machine for one in cars))
    return fleet, cars


def start_cars(fleet: Fleet, cars: Sequence[Car]) -> None:
    """Let the cars join, run the default app once, and start the agents again."""
    ours = [one for one in cars if one.lines is not None]
    for one in cars:
        one.machine.run("install", "-D", "/dev/null", SYNCHRONISED)
    for partition, one in enumerate(ours):
        fleet.configure(one.machine, partition, *(one.lines or ()))
        fleet.give_trips(one.machine, partition)
        one.machine.run("systemctl", "start", "fleven-agent")
    fleet.accept()
    fleet.wait_ready()
    state = fleet.wait_end(fleet.submit("--set", "rounds=2"))
    if state != "succeeded":
        raise RuntimeError(f"the run ended {state}")
    for one in ours:
        one.machine.run("systemctl", "restart", "fleven-agent")
    start_stock(fleet, next(one.machine for one in cars if one.kind == "stock"))


def start_stock(fleet: Fleet, machine: Machine) -> None:
    """Start Flower's own SuperNode as its documentation says, as a service without an agent."""
    machine.write("/etc/stock-ca.crt", fleet.server.run("cat", AUTHORITY))
    public = machine.run(PYTHON, "-c", MAKE_KEY)
    machine.run("chown", "fleven", "/etc/stock.key")
    fleet.server.write("/root/stock.pub", public)
    fleet.server.run("fleven-server", "nodes", "accept-key", "/root/stock.pub", "stock", "--partition", "7")
    machine.run(
        "systemd-run", f"--unit={STOCK_UNIT}", "--uid=fleven", "-p", "Restart=always", "-p", "RestartSec=2",
        "-E", "HOME=/var/lib/fleven", "-E", "PATH=/usr/lib/fleven/node/bin:/usr/bin:/bin",
        "-E", "FLWR_TELEMETRY_ENABLED=0", "/usr/lib/fleven/node/bin/flower-supernode",
        "--superlink", f"{fleet.server.address}:{SUPERLINK_PORT}", "--root-certificates", "/etc/stock-ca.crt",
        "--auth-supernode-private-key", "/etc/stock.key", "--node-config", "partition-id=7 num-partitions=8",
    )  # fmt: skip
    wait_for("the stock SuperNode has its id", lambda: "SuperNode ID" in machine.journal("-u", STOCK_UNIT), 90, 1.0)


# ---------------------------------------------------------------- memory, processor, disk


def processes(machine: Machine) -> dict[int, dict[str, Any]]:
    """What each process of a machine has used so far, by pid of this host."""
    found = {}
    ticks = os.sysconf("SC_CLK_TCK")
    users = user_names(machine)
    for pid in machine.members():
        folder = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            io = dict(line.split(": ") for line in (folder / "io").read_text().splitlines())
            status = (folder / "status").read_text()
            rollup = (folder / "smaps_rollup").read_text()
            uid = re.search(r"^Uid:\s+(\d+)", status, re.MULTILINE)
            pss = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
            rss = re.search(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)
            found[pid] = {
                "name": name_of(command),
                "user": users.get(uid[1] if uid else "", uid[1] if uid else ""),
                # With what ended children of it have used.
                "cpu_seconds": sum(map(int, stat[11:15])) / ticks,
                "written_bytes": int(io["write_bytes"]),
                "pss_bytes": int(pss[1]) * 1024 if pss else 0,
                "rss_bytes": int(rss[1]) * 1024 if rss else 0,
            }
    return found


def memory_bytes(pids: Sequence[int]) -> int:
    """Memory that processes take together, as if nobody else had the same files mapped: other machines of the bed do.

    Of pages of files counts for each part of a file what the process has in memory that has most of it.
    """
    own, files = 0, dict[str, int]()
    for pid in pids:
        with contextlib.suppress(OSError):
            rollup = sizes_of(Path(f"/proc/{pid}/smaps_rollup").read_text())
            own += rollup["Pss_Anon"] + rollup["Pss_Shmem"]
            content = Path(f"/proc/{pid}/smaps").read_text(errors="replace")
            for head, part in re.findall(r"^([0-9a-f]+-[0-9a-f]+ .*)\n((?:[A-Z]\w+:.*\n)+)", content, re.MULTILINE):
                _, _, offset, device, inode, *_ = head.split()
                if inode != "0":
                    sizes, key = sizes_of(part), f"{device} {inode} {offset}"
                    files[key] = max(files.get(key, 0), sizes["Rss"] - sizes["Anonymous"])
    return (own + sum(files.values())) * 1024


def sizes_of(text: str) -> dict[str, int]:
    """Sizes [KiB] in what Linux says of mappings."""
    return {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}


def own_pss_bytes(machine: Machine, user_ids: set[int]) -> int:
    """Memory of the services' processes now; quick, since it is asked while a task works."""
    total = 0
    for pid in machine.members():
        with contextlib.suppress(OSError):
            # Not the owner of the folder: that is root for a process that lets nobody look into it.
            user = re.search(r"^Uid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            if user and int(user[1]) in user_ids:
                found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
                total += int(found[1]) * 1024 if found else 0
    return total


def work(fleet: Fleet, cars: Sequence[Car]) -> dict[str, dict[str, float]]:
    """Run the default app once more; returns how much memory each car took before it and at the most in it."""
    ours = [one for one in cars if one.lines is not None]
    users = {
        one.kind: {int(number) for number, name in user_names(one.machine).items() if name in SERVICE_USERS}
        for one in ours
    }
    before = {one.kind: own_pss_bytes(one.machine, users[one.kind]) for one in ours}
    most = dict(before)
    run_number = fleet.submit("--set", "rounds=3")
    with ThreadPoolExecutor(1) as pool:
        end = pool.submit(fleet.wait_end, run_number)
        while not end.done():
            for one in ours:
                most[one.kind] = max(most[one.kind], own_pss_bytes(one.machine, users[one.kind]))
            time.sleep(0.1)
        state = end.result()
    return {
        kind: {
            "before_megabytes": before[kind] / 1e6,
            "most_megabytes": most[kind] / 1e6,
            "succeeded": state == "succeeded",
        }
        for kind in before
    }


def user_names(machine: Machine) -> dict[str, str]:
    """Names of a machine's users by their number."""
    lines = [line.split(":") for line in machine.run("getent", "passwd").splitlines()]
    return {line[2]: line[0] for line in lines}


def name_of(command: str) -> str:
    """What a process is, from its command line."""
    names = ("flower-superexec", "flower-supernode", "fleven_agent.warm cell", "trip_worker", "fleven-agent run")
    return next((name for name in names if name in command), command.split(" ")[0].rpartition("/")[2] or "?")


def disk_bytes(machine: Machine) -> int:
    """What was written to a machine's disk since it was mounted, with the file system's own journal."""
    run("sync", "-f", str(machine.folder))
    device = Path(run("findmnt", "-no", "SOURCE", str(machine.folder)).strip()).name
    return int(Path(f"/sys/fs/ext4/{device}/session_write_kbytes").read_text()) * 1024


def journal_bytes(machine: Machine) -> int:
    """Text of a machine's journal so far."""
    return len(machine.run("journalctl", "--no-pager", "-o", "cat"))


# ---------------------------------------------------------------- the wire


def kinds_of(packets: Sequence[wire.Packet]) -> dict[str, list[wire.Packet]]:
    """Sort packets by what they are for."""
    found: dict[str, list[wire.Packet]] = defaultdict(list)
    for (protocol, _, remote), own in wire.by_connection(packets).items():
        found[kind_of(protocol, remote, own)] += own
    return dict(found)


def kind_of(protocol: str, remote: str, packets: Sequence[wire.Packet]) -> str:
    """What a connection is for. A report is answered at once, the open question only after minutes."""
    port = int(remote.rpartition(":")[2] or 0) if protocol == "tcp" else 0
    if port == SUPERLINK_PORT:
        return "SuperNode" if any(packet.payload_bytes for packet in packets) else "tries of the SuperLink's port"
    if port != REPORTS_PORT:
        return f"others ({protocol} {port or ''})".replace(" )", ")")
    asked = [one for one in wire.exchanges(packets) if one.sent_bytes and not one.opens]
    answered = [one for one in asked if one.received_bytes]
    return "reports" if len(answered) * 2 > len(asked) else "open question"


def traffic(packets: Sequence[wire.Packet], seconds: float) -> dict[str, Any]:
    """Figures of what an interface carried."""
    rows = []
    for kind, own in sorted(kinds_of(packets).items()):
        connections = list(wire.by_connection(own).values())
        made = [one for part in connections for one in wire.exchanges(part)]
        talk = [one for one in made if (one.sent_bytes or one.received_bytes) and not one.opens]
        silent = [packet for packet in own if not packet.payload_bytes]
        rows.append(
            {
                "kind": kind,
                "connections": len(connections),
                "wire_bytes": sum(packet.wire_bytes for packet in own),
                "payload_bytes": sum(packet.payload_bytes for packet in own),
                "empty_packet_bytes": sum(packet.wire_bytes for packet in silent),
                "handshake_bytes": sum(one.wire_bytes for one in made if one.opens),
                "keepalive_bytes": sum(one.wire_bytes for one in made if not one.sent_bytes + one.received_bytes),
                "exchanges": len(talk),
                "exchange_bytes": statistics.median([one.wire_bytes for one in talk]) if talk else 0,
                "list": [[round(one.at, 1), one.sent_bytes, one.received_bytes, one.wire_bytes] for one in made],
            }
        )
    total = sum(row["wire_bytes"] for row in rows if not row["kind"].startswith("others"))
    return {"rows": rows, "wire_bytes": total, "day_megabytes": total / seconds * DAY_SECONDS / 1e6}


def watch(cars: Sequence[Car], seconds: float, folder: Path) -> dict[str, dict[str, Any]]:
    """Measure all cars over the same time."""
    kinds = [one.kind for one in cars]
    before = {one.kind: used(one.machine) for one in cars}
    began = time.monotonic()
    captures = [capturing(one, seconds, folder) for one in cars]
    for process in captures:
        process.wait()
    span = time.monotonic() - began
    after = {one.kind: used(one.machine) for one in cars}
    return {kind: figures(before[kind], after[kind], wire.read(folder / kind), span) for kind in kinds}


def capturing(car: Car, seconds: float, folder: Path) -> subprocess.Popen[bytes]:
    """Count the packets of a car's interface, in its network."""
    namespace = f"{car.machine.switch.prefix}-{car.machine.name}"
    command = ["ip", "netns", "exec", namespace, sys.executable, wire.__file__]
    return subprocess.Popen([*command, "eth0", f"{seconds}", str(folder / car.kind)])


Used = tuple[dict[int, dict[str, Any]], int, int, int]


def used(machine: Machine) -> Used:
    """What a machine has used so far, and the memory of our processes on it."""
    found = processes(machine)
    own = [pid for pid, process in found.items() if process["user"] in SERVICE_USERS]
    return found, disk_bytes(machine), journal_bytes(machine), memory_bytes(own)


def figures(before: Used, after: Used, packets: Sequence[wire.Packet], seconds: float) -> dict[str, Any]:
    """Figures of one car."""
    rows = []
    for pid, now in after[0].items():
        then = before[0].get(pid, {"cpu_seconds": 0.0, "written_bytes": 0})
        row = {"process": now["name"], "user": now["user"]}
        row |= {"pss_megabytes": now["pss_bytes"] / 1e6, "rss_mebibytes": now["rss_bytes"] / 2**20}
        row["cpu_percent"] = 100 * (now["cpu_seconds"] - then["cpu_seconds"]) / seconds
        row["written_bytes"] = now["written_bytes"] - then["written_bytes"]
        rows.append(row)
    own = [row for row in rows if row["user"] in SERVICE_USERS]
    return {
        "seconds": round(seconds, 1),
        "traffic": traffic(packets, seconds),
        "processes": [row for row in rows if row in own or row["written_bytes"] or row["cpu_percent"] > 0.01],
        "pss_megabytes": round(sum(row["pss_megabytes"] for row in own), 1),
        "memory_megabytes": round(after[3] / 1e6, 1),
        "cpu_percent": round(sum(row["cpu_percent"] for row in own), 3),
        "disk_bytes": after[1] - before[1],
        "journal_text_bytes": after[2] - before[2],
    }


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print what was measured."""
    bare = found.get("nothing", {}).get("disk_bytes", 0)
    for kind, one in found.items():
        a_day = DAY_SECONDS / one["seconds"] / 1e6
        written, more = one["disk_bytes"] * a_day, (one["disk_bytes"] - bare) * a_day
        print(f"\n{kind}: {one['seconds']:.0f} s, {one['traffic']['day_megabytes']:.2f} MB a day on the wire, "
              f"memory {one['memory_megabytes']} MB (PSS {one['pss_megabytes']}), processor {one['cpu_percent']} %, "
              f"disk {written:.1f} MB a day ({more:.1f} more than nothing), journal {one['journal_text_bytes']} "
              "bytes of text")  # fmt: skip
        if "work" in one:
            print(f"  a run of three rounds: {one['work']}")
        for row in one["traffic"]["rows"]:
            print(f"  {row['wire_bytes'] * a_day:7.3f} MB a day  {row['kind']}: {row['connections']} connections, "
                  f"{row['exchanges']} exchanges of {row['exchange_bytes']:.0f} bytes, handshakes "
                  f"{row['handshake_bytes']}, keepalives {row['keepalive_bytes']}, empty packets "
                  f"{row['empty_packet_bytes']}, payload {row['payload_bytes']}")  # fmt: skip
        for row in one["processes"]:
            print(f"  {row['pss_megabytes']:7.1f} MB PSS {row['rss_mebibytes']:7.1f} MiB RSS {row['cpu_percent']:6.3f} "
                  f"% {row['written_bytes']:9d} bytes  {row['user']} {row['process']}")  # fmt: skip


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debs", type=Path, required=True, help="folder with both packages")
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--seconds", type=float, default=720, help="how long is measured (default 720)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--logs", type=Path, help="keep journals and packets there")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        bed = stack.enter_context(
            Bed(f"ic{os.getpid() % 10_000}", arguments.suite, host_architecture(), arguments.logs)
        )
        folder = arguments.logs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        fleet, cars = boot(bed, arguments.debs.resolve())
        start_cars(fleet, cars)
        time.sleep(SETTLE_SECONDS)
        found = watch(cars, arguments.seconds, folder)
        for kind, memory in work(fleet, cars).items():
            found[kind]["work"] = memory
        if arguments.logs:
            bed.collect(arguments.logs)
    show(found)
    if arguments.json:
        for row in (row for one in found.values() for row in one["traffic"]["rows"]):
            del row["list"]  # for reading as it comes, too much to keep
        content = {"cars": found, "machine": host.describe()}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
