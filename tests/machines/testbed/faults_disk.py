"""Rows about disks: full, gone, read-only, silent. Imports nothing of fleven."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .fault import Action, Fault, configured, first_node, lasting, the_server, wait_node_says, wait_not_ready
from .fleet import Fleet
from .machine import Machine

HANG = Path(__file__).with_name("hang.py")
TRIPS = "/var/lib/fleven/data"
USB = "/media/usb"


def prepare_disks(fleet: Fleet) -> None:
    """Give the states of the first node and the server disks small enough to fill (gone with the power)."""
    for machine, folder, unit in (
        (fleet.nodes[0], Path("/var/lib/fleven"), "fleven-agent"),
        (fleet.server, Path("/var/lib/fleven-server"), "fleven-server fleven-superlink"),
    ):
        machine.shell(
            f"systemctl stop {unit}; cp -a {folder} /root/state; mount -t tmpfs -o size=400M,mode=755 tmpfs {folder}; "
            f"cp -a /root/state/. {folder}/; rm -r /root/state; systemctl start {unit}"
        )


def disk_full(machine_of: Callable[[Fleet], Machine], folder: str) -> Action:
    """Fill the state's own small disk to the last byte for a minute."""

    def inject(fleet: Fleet) -> None:
        machine = machine_of(fleet)
        machine.try_run("sh", "-c", f"cat /dev/zero > {folder}/filler")
        lasting(60)
        machine.run("rm", f"{folder}/filler")

    return inject


def no_inodes(machine_of: Callable[[Fleet], Machine], folder: str) -> Action:
    """No further file can be made on the state's own small disk for a minute, though it has space."""

    def inject(fleet: Fleet) -> None:
        machine = machine_of(fleet)
        used = machine.run("df", "--output=iused", folder).split()[-1]
        machine.run("mount", "-o", f"remount,nr_inodes={used}", folder)
        lasting(60)
        machine.run("mount", "-o", "remount,nr_inodes=100000", folder)

    return inject


def trips_hang(fleet: Fleet) -> None:
    """The disk of the trips stops answering; the agent says so, and starts again in spite of it."""
    node = fleet.nodes[0]
    hanging = subprocess.Popen([sys.executable, str(HANG), str(node.leader()), TRIPS], stdout=subprocess.PIPE)
    try:
        if hanging.stdout is None or hanging.stdout.readline() != b"hangs\n":
            raise AssertionError("the disk cannot be made to hang here")
        wait_node_says(fleet, "n1", "data-stuck", 60)
        node.run("systemctl", "restart", "fleven-agent", timeout_seconds=90)
        wait_node_says(fleet, "n1", "data-stuck", 60)
        wait_not_ready(fleet, "n1", 5)
    finally:
        hanging.terminate()
        hanging.wait(20)
        node.run("umount", "--lazy", TRIPS)


def card_read_only(fleet: Fleet) -> None:
    """The file system finds an error and turns read-only; the car is kept out until somebody starts it anew."""
    node = fleet.nodes[0]
    node.break_disk()
    wait_not_ready(fleet, "n1", 60)
    node.power_cut()
    node.repair_disk()
    fleet.bed.start(node)


def root_read_only(fleet: Fleet) -> None:
    """A car that starts with everything but /var read-only, as many are set up."""
    node = fleet.nodes[0]
    node.power_off()
    node.read_only_root = True
    node.start()


def root_writable(fleet: Fleet) -> None:
    node = fleet.nodes[0]
    node.power_off()
    node.read_only_root = False
    fleet.bed.start(node)


def journal_full(fleet: Fleet) -> None:
    """The disk of the journal has no byte left for a minute."""
    node, folder = fleet.nodes[0], "/var/log/journal"
    node.shell(f"mkdir -p {folder}; mount -t tmpfs -o size=8M tmpfs {folder}; systemctl restart systemd-journald")
    node.try_run("sh", "-c", f"cat /dev/zero > {folder}/filler")
    lasting(60)
    node.shell(f"rm {folder}/filler; umount --lazy {folder}; systemctl restart systemd-journald")


def trips_on_usb(fleet: Fleet) -> None:
    node = fleet.nodes[0]
    node.shell(f"mkdir -p {USB} /srv/usb; cp -a {TRIPS}/client_0 /srv/usb/; mount --bind /srv/usb {USB}")
    configured("", f'data-path = "{USB}/client_0"')(fleet)


def usb_pulled(fleet: Fleet) -> None:
    node = fleet.nodes[0]
    node.run("umount", "--lazy", USB)
    wait_node_says(fleet, "n1", "data-missing", 60)
    lasting(20)
    node.run("mount", "--bind", "/srv/usb", USB)


def no_usb(fleet: Fleet) -> None:
    configured()(fleet)
    fleet.nodes[0].shell(f"umount --lazy {USB}; rm -r {USB} /srv/usb")


def trips_unreadable(fleet: Fleet) -> None:
    node = fleet.nodes[0]
    node.run("chmod", "000", f"{TRIPS}/client_0")
    try:
        wait_not_ready(fleet, "n1", 60)
    finally:
        node.run("chmod", "755", f"{TRIPS}/client_0")


def register_locked(fleet: Fleet) -> None:
    """Somebody looks into the register with another program, which locks it for a minute."""
    program = (
        "import sqlite3, time; "
        "c = sqlite3.connect('/var/lib/fleven-server/register.db', isolation_level=None, timeout=30); "
        "c.execute('BEGIN EXCLUSIVE'); time.sleep(60); c.execute('ROLLBACK')"
    )
    fleet.server.run("python3", "-c", program)


def rows() -> list[Fault]:
    """In the order of the table."""
    node_state, server_state = "/var/lib/fleven", "/var/lib/fleven-server"
    return [
        Fault("disk of a node full for 60 s", disk_full(first_node, node_state), small_disks=True),
        Fault("disk of the server full for 60 s", disk_full(the_server, server_state), small_disks=True),
        Fault("disk of a node without inodes for 60 s", no_inodes(first_node, node_state), small_disks=True),
        Fault("disk of the server without inodes for 60 s", no_inodes(the_server, server_state), small_disks=True),
        Fault("disk of a node's journal full for 60 s", journal_full),
        Fault(
            "disk of the trips hangs in a round", trips_hang, by_hand="pulls it",
            holds="condition data-stuck within 60 s, not ready; a restarted agent comes up",
        ),
        Fault(
            "card of a node turns read-only in a round", card_read_only, by_hand="starts the car anew",
            holds="not ready within 60 s, with the reason", simulated="an error that ext4 is told to have found",
        ),
        Fault("a node starts with a read-only root (/var writable)", root_read_only, after=root_writable),
        Fault(
            "USB disk with the trips unmounted in a round", usb_pulled, by_hand="mounts it again",
            before=trips_on_usb, after=no_usb, holds="condition data-missing within 60 s",
        ),
        Fault(
            "folder of the trips unreadable for the agent", trips_unreadable, by_hand="mends its mode",
            holds="not ready within 60 s, with the reason",
        ),
        Fault("register locked by another program for 60 s", register_locked),
    ]  # fmt: skip
