"""What the agent learns of the machine around SuperNode: readings, the way to the SuperLink, trips, gates.

Owns the periodic jobs and hands their last results to the loop. Nothing here touches data-path: its disk may never
answer, which is ``trip_watch``'s business. Imports the folder's other modules.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

from fleven_agent.common.addresses import connect_problem, resolve, split
from fleven_agent.config.settings import Settings
from fleven_agent.identity.secure_http import TlsFailure, handshake_failure
from fleven_agent.monitoring import gates
from fleven_agent.monitoring.machine import Reader, tree_of
from fleven_agent.monitoring.traffic import Meter, Usage
from fleven_agent.monitoring.trip_folder import Summary
from fleven_agent.monitoring.trip_watch import FolderSettings, TripWatch, folder_of
from fleven_agent.monitoring.write_probe import WriteProbe
from fleven_agent.protocol.readings import Disk, ProcessTree, Readings
from fleven_agent.state import Remembered, drained
from fleven_agent.supernode.connection_watch import Reach
from fleven_agent.system import tcp_counters
from fleven_agent.system.periodic import Periodic
from fleven_agent.system.totals import own_addresses
from fleven_agent.system.way import Way, WayFinder

CARD_SECONDS = 5.0
"""How often the state folder's mount is looked at; how often it is written, ``write_probe`` says."""
NETWORK_SECONDS = 5.0
"""How often the way to the SuperLink is asked for, and the bytes of the connections are counted."""
TOUCH_SECONDS = 10.0
"""How often data-path is touched between two scans: a disk that hangs is to be known within half a minute."""


class Monitors:
    """The jobs around the loop.

    Args:
        settings: of the agent.
        state_directory: whose disk is watched beside that of data-path.
        runtime_directory: with ``inhibit.d``.
        wake: wakes the loop when something new is known.
    """

    def __init__(
        self, settings: Settings, state_directory: Path, runtime_directory: Path, wake: Callable[[], None]
    ) -> None:
        self._state_directory = state_directory
        self._inhibit = runtime_directory / gates.INHIBIT_FOLDER
        self._wake = wake
        self.readings = Readings()
        self.data: Summary | None = None
        self.gates = gates.Gates()
        self.data_stuck = ""
        """Why nothing can be known of the trips: empty while their disk answers."""
        self._folder: FolderSettings | None = None
        self._data_disk: Disk | None = None
        self._scan_at = float("-inf")
        self._trips = TripWatch()
        self.way: Way | None = None
        """By which network the SuperLink is reached; None while no gate asks for it."""
        self.supernode_pid: int | None = None
        """Whose connections are counted beside the agent's own."""
        self._ways = WayFinder()
        self._meter = Meter()
        self._uncounted_bytes = 0
        self._counting = threading.Lock()
        self._trees: dict[str, tuple[float, float]] = {}
        self._probe_seconds = settings.health.superlink_probe_seconds
        self._apply(settings)
        self.reader = Reader([str(state_directory)])
        self.probe = Probe(settings.superlink)
        self.tls_failure: TlsFailure | None = None
        """Why SuperNode cannot have a connection, though the SuperLink's port takes some."""
        self._doubted = False
        self._card = WriteProbe(state_directory)
        self._jobs = [
            Periodic("readings", self._read, settings.health.reading_interval_seconds),
            Periodic("probe", self._probe, settings.health.superlink_probe_seconds),
            Periodic("data", self._look_at_trips, TOUCH_SECONDS),
            Periodic("card", self._write, CARD_SECONDS),
            Periodic("network", self._look_at_network, NETWORK_SECONDS),
        ]

    def start(self) -> None:
        """Read once, so that the first decision has readings, and start the jobs."""
        self._read()
        self._look_at_network()
        for job in self._jobs:
            job.start()

    def stop(self) -> None:
        """End the jobs."""
        for job in self._jobs:
            job.stop()
        self._trips.stop()

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings."""
        self._apply(settings)
        if self.probe.address != settings.superlink:
            self.probe = Probe(settings.superlink)
        readings, probe = self._jobs[:2]
        readings.interval_seconds = settings.health.reading_interval_seconds
        probe.interval_seconds = self._probe_seconds
        for job in self._jobs:
            job.hurry()

    def probe_every(self, seconds: float) -> None:
        """Try the SuperLink's port at this interval; a shorter one counts at once."""
        if seconds == self._probe_seconds:
            return
        sooner, self._probe_seconds = seconds < self._probe_seconds, seconds
        self._jobs[1].interval_seconds = seconds
        if sooner:
            self._jobs[1].hurry()

    def doubt(self, doubted: bool) -> None:
        """Look for the reason in TLS, or no longer: SuperNode should be connected and is not.

        Not while it is: each handshake costs more bytes than all else that an idle car says in the meantime.
        """
        if doubted == self._doubted:
            return
        self._doubted = doubted
        if doubted:
            self.probe_now()
        else:
            self.tls_failure = None

    def probe_now(self) -> None:
        """Try the SuperLink's port now instead of at its time."""
        self._jobs[1].hurry()

    @property
    def card_problem(self) -> str:
        """Why the state folder cannot be written; empty while it can."""
        return self._card.problem

    def write_now(self) -> None:
        """Write to the state folder now: a task has failed, perhaps because it could not."""
        self._card.want()
        self._jobs[3].hurry()

    def closed_gates(
        self, settings: Settings, known: Remembered, now: float, *, identity: str = "", cell: str = ""
    ) -> tuple[str, ...]:
        """Return the reasons of all closed gates at a monotonic moment.

        ``identity``: why the car is not let in; ``cell``: why tasks cannot run in theirs.
        """
        drain = drained(known)
        inputs = gates.Inputs(
            readings=self.readings,
            inhibitors=gates.inhibit_files(self._inhibit) if settings.gates.inhibit_files else (),
            drain=drain["reason"] if drain["active"] else None,
            moment=gates.local_moment(settings.gates, time.time()),
            identity=identity,
            cell=cell,
            way=self.way,
            month_bytes=known.traffic_month_bytes,
        )
        return self.gates.update(settings.gates, inputs, now)

    def tree(self, name: str, pids: tuple[int, ...]) -> ProcessTree | None:
        """Sum up processes, with a percentage since the last call of the same name."""
        found = tree_of(list(pids), self._trees.get(name))
        if found is None:
            self._trees.pop(name, None)
        else:
            self._trees[name] = (time.monotonic(), found.cpu_seconds)
        return found

    def _apply(self, settings: Settings) -> None:
        self._probe_seconds = settings.health.superlink_probe_seconds
        self._networks = settings.gates.networks
        report = (settings.report_url or "").partition("://")[2].partition("/")[0]
        self._remote_ports = frozenset(filter(None, map(_port_of, (settings.superlink, report))))
        self._roots = settings.root_certificates if settings.insecure is False else None
        self._scan_seconds = (settings.data.scan_interval_seconds, settings.data.settle_seconds + 1)
        self._scan_at = float("-inf")
        self._folder = folder_of(settings)
        if self._folder is None:
            self.data, self._data_disk, self.data_stuck = None, None, ""

    def _read(self) -> None:
        readings, disk = self.reader.read(), self._data_disk
        self.readings = replace(readings, disks=(*readings.disks, disk)) if disk is not None else readings

    def _probe(self) -> None:
        before = self.probe.problem, self.tls_failure
        self.probe.run()
        failure, roots = None, self._roots
        if self._doubted and roots is not None and not self.probe.problem:
            failure = handshake_failure(self.probe.address, roots)
        self.tls_failure = failure if self._doubted else None
        if (self.probe.problem, self.tls_failure) != before:
            self._wake()

    def take_traffic(self, usage: Usage, today: date | None = None) -> Usage:
        """Return the usage with all that was carried since the last call.

        Args:
            usage: as it was then.
            today: local date; None means the machine's.
        """
        with self._counting:
            grown, self._uncounted_bytes = self._uncounted_bytes, 0
        return usage.after(grown, today or datetime.now().astimezone().date())

    def _look_at_network(self) -> None:
        wanted, way = self._networks, None
        if wanted:
            known = sorted(self.probe.reach.addresses)
            try:
                found = known or list(resolve(split(self.probe.address)[0]))
            except OSError:
                found = []
            way = self._ways.find(found[0].partition("%")[0], wanted) if found else Way()
        if way != self.way:
            self.way = way
            self._wake()
        pids = [os.getpid(), *filter(None, [self.supernode_pid])]
        carried = tcp_counters.wire_bytes(pids, self._remote_ports)
        if carried is not None:
            with self._counting:
                self._uncounted_bytes += self._meter.grown(carried)

    def _write(self) -> None:
        before = self._card.problem
        self._card.run()
        if self._card.problem != before:
            self._wake()

    def _look_at_trips(self) -> None:
        folder = self._folder
        if folder is None:
            return
        scan = time.monotonic() >= self._scan_at
        look = self._trips.look(folder, scan=scan)
        if folder is not self._folder:  # another one since: what was seen says nothing of it
            return
        changed = bool(look.stuck) != bool(self.data_stuck)
        self._data_disk, self.data_stuck = look.disk, look.stuck
        if look.summary is not None:
            summary = None if look.summary.absent else look.summary
            changed = changed or summary != self.data
            self.data = summary
            # A trip that is being written counts soon after it has settled, not at the next usual look.
            usual, soon = self._scan_seconds
            if look.summary.unfinished:
                usual = min(usual, soon)
            elif not look.summary.trips:
                # The car is kept out of runs until it has trips: whoever copies them now waits for this look.
                usual = min(usual, TOUCH_SECONDS)
            self._scan_at = time.monotonic() + usual
        # A scan that brought nothing is tried at the usual time: its process may hang, or have been killed for memory.
        unanswered = scan and look.summary is None
        due = TOUCH_SECONDS if unanswered else self._scan_at - time.monotonic()
        self._jobs[2].interval_seconds = max(0.1, min(TOUCH_SECONDS, due))
        if changed:
            self._wake()


def _port_of(address: str) -> int | None:
    try:
        return split(address)[1]
    except ValueError:
        return None


class Probe:
    """Whether the SuperLink's port takes connections. Unreachable only after two tries in a row."""

    def __init__(
        self,
        address: str,
        connect: Callable[[str], str] = connect_problem,
        ask: Callable[[str], Sequence[str]] = resolve,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self.problem = ""
        self.reach = Reach()
        self._connect, self._ask, self._clock = connect, ask, clock
        self._failures = 0

    def run(self) -> None:
        """Try once."""
        began = self._clock()
        problem = self._connect(self.address)
        self._failures = self._failures + 1 if problem else 0
        self.problem = problem if self._failures >= 2 else ""
        if problem:
            self.reach = replace(self.reach, tried_at=began, reachable_since=float("inf"))
            return
        since = min(self.reach.reachable_since, began)
        try:
            addresses = frozenset(one.partition("%")[0] for one in self._ask(split(self.address)[0]))
        except OSError:
            addresses = frozenset()  # the name is not known just now: it says nothing of the connection
        self.reach = Reach(began, began, since, addresses, own_addresses())
