"""Rows about what people do, what piles up, and boards with little memory or no clock. Imports nothing of fleven."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from .fault import Action, Fault, agent_says, lasting
from .fleet import NEWER, NEWER_SERVER, Fleet, install, newer_version
from .machine import Machine
from .shell import wait_for

BOARD_MEGABYTES = 512
BOARD_MEMINFO = """\
MemTotal:         437560 kB
MemFree:           60000 kB
MemAvailable:     300000 kB
Buffers:           10000 kB
Cached:           150000 kB
SwapTotal:        102396 kB
SwapFree:         102396 kB
"""
"""Of a Raspberry Pi Zero 2 W that does nothing else: the machine's own shows the memory of its host."""
WAITING = 50
ANSWER_SECONDS = 5.0
PAST_RUNS, FILES_A_RUN = 500, 20
SUSPENDED_MINUTES = 20
FIRES_ON_TIME = 2
"""Fires of the last 90 s are not late: each may have its run."""
PAST = Path(__file__).with_name("past_runs.py")


def other_partition(fleet: Fleet) -> None:
    """The number of another car in node.toml: the server's value counts, and `check` says so."""
    node = fleet.nodes[1]
    fleet.configure(node, 0)
    node.run("systemctl", "restart", "fleven-agent")
    try:
        checked = node.try_run("fleven-agent", "check", "--only", "identity.wishes")
        if "the server has bound 1" not in checked.output:
            raise AssertionError(f"check says nothing of the partition-id: {checked.output}{checked.errors}")
        fleet.wait_ready()
        keeps(fleet, "n2", 1)
    finally:
        fleet.configure(node, 1)
        node.run("systemctl", "restart", "fleven-agent")


def same_name(fleet: Fleet) -> None:
    """The second car gets the hostname of the first; each stays who it is for the server."""
    node = fleet.nodes[1]
    node.shell("hostname n1; systemctl restart fleven-agent")
    try:
        fleet.wait_ready()
        keeps(fleet, "n2", 1)
    finally:
        node.shell("hostname n2; systemctl restart fleven-agent")


def keeps(fleet: Fleet, name: str, partition: int) -> None:
    """Demand that a car is whom the server has let in, and that nobody was taken for another."""
    found = {node["name"]: node["partition_id"] for node in fleet.get("nodes")["nodes"]}
    if found.get(name) != partition or len(found) != len(fleet.nodes):
        raise AssertionError(f"names and partitions are mixed up: {found}")


def other_flower(fleet: Fleet) -> None:
    node = fleet.nodes[1]
    metadata = node.shell("ls -d /usr/lib/fleven/node/lib/python3*/site-packages/flwr-*.dist-info").strip()
    other = f"{metadata.rsplit('/', 1)[0]}/flwr-1.33.0.dist-info"
    node.run("cp", f"{metadata}/METADATA", "/root/METADATA")
    node.run("sed", "-i", "s/^Version: .*/Version: 1.33.0/", f"{metadata}/METADATA")
    node.run("mv", metadata, other)
    node.run("systemctl", "restart", "fleven-agent")
    fleet.wait_condition("version-mismatch")
    node.run("mv", other, metadata)
    node.run("cp", "/root/METADATA", f"{metadata}/METADATA")
    node.run("systemctl", "restart", "fleven-agent")


def configuration_broken(fleet: Fleet) -> None:
    node = fleet.nodes[0]
    good = node.run("cat", "/etc/fleven/node.toml")
    node.write("/etc/fleven/node.toml", "partition-id = 0\nsuperlink = \n")
    node.try_run("systemctl", "reload", "fleven-agent")
    node.try_run("systemctl", "restart", "fleven-agent")
    wait_for("the agent refuses it", lambda: node.show("fleven-agent", "ActiveState") == "failed", 120)
    node.write("/etc/fleven/node.toml", good)
    node.run("systemctl", "start", "fleven-agent")


def wrong_port(fleet: Fleet) -> None:
    """The port of the Control API in node.toml: the agent says what it is, and the operator mends it."""
    node = fleet.nodes[0]
    good = node.run("cat", "/etc/fleven/node.toml")
    fleet.configure(node, 0, superlink=f"{fleet.server.address}:9093")
    node.run("systemctl", "restart", "fleven-agent")
    try:
        agent_says(node, "Control API", 60)
    finally:
        node.write("/etc/fleven/node.toml", good)
        node.run("systemctl", "restart", "fleven-agent")


def package_changed(new: str, *options: str) -> Action:
    def inject(fleet: Fleet) -> None:
        node = fleet.nodes[0]
        if new == "newer":
            install(node, f"{fleet.debs.name}/{NEWER}")
        else:
            node.run("apt-get", "install", "-y", *options, f"./mnt/{fleet.package('node')}", timeout_seconds=900)

    return inject


def newer_node(fleet: Fleet) -> None:
    make_newer(fleet, "node", NEWER)


def newer_server(fleet: Fleet) -> None:
    make_newer(fleet, "server", NEWER_SERVER)


def make_newer(fleet: Fleet, role: str, name: str) -> None:
    """Have a package of a higher version; the next sessions find it made."""
    if not (fleet.debs / name).exists():
        newer_version(fleet.debs / Path(fleet.package(role)).name, fleet.debs / name)


def server_upgraded(fleet: Fleet) -> None:
    install(fleet.server, f"{fleet.debs.name}/{NEWER_SERVER}")


def server_downgraded(fleet: Fleet) -> None:
    package = f"./mnt/{fleet.package('server')}"
    fleet.server.run("apt-get", "install", "-y", "--allow-downgrades", package, timeout_seconds=900)
    fleet.wait_ready()


def package_removed(fleet: Fleet) -> None:
    """`apt remove` in a run, and the package back: its configuration and state were kept."""
    node = fleet.nodes[0]
    node.run("apt-get", "remove", "-y", "fleven-node", timeout_seconds=300)
    if left := node.processes("fleven_agent|flower-supernode|fleven-agent run"):
        raise AssertionError(f"apt remove left processes: {left}")
    lasting(10)
    install(node, fleet.package("node"))
    node.run("systemctl", "start", "fleven-agent")


def clock(of: Callable[[Fleet], Sequence[Machine]], *offsets: str) -> Action:
    """All services of nodes are started with another time, more than one offset one after the other."""

    def inject(fleet: Fleet) -> None:
        for offset in offsets:
            for node in of(fleet):
                node.write("/etc/faketimerc", f"{offset}\n")
                node.shell(
                    "ls /usr/lib/*/faketime/libfaketime.so.1 > /etc/ld.so.preload; systemctl restart fleven-agent"
                )
            lasting(45)
        for node in of(fleet):
            real_clock(node)

    return inject


def clock_of_1970(fleet: Fleet) -> None:
    """A board without a clock starts at the beginning of time; after a minute NTP sets it, under running services."""
    node = fleet.nodes[0]
    node.shell("ls /usr/lib/*/faketime/libfaketime.so.1 > /etc/ld.so.preload")
    node.write("/etc/faketimerc", "@1970-01-01 00:00:10\n")
    node.run("systemctl", "restart", "fleven-agent")
    lasting(60)
    node.write("/etc/faketimerc", "+0\n")  # read again within 10 s


def real_clock(node: Machine) -> None:
    node.shell("rm -f /etc/ld.so.preload; systemctl restart fleven-agent")


def zone_changed(fleet: Fleet) -> None:
    """Node and server are set to another time zone; what is due next in a zone of its own stays where it was."""
    server = fleet.server
    server.run("fleven-server", "schedule", "add", "zoned", "--cron", "0 2 * * *", "--timezone", "Europe/Lisbon")
    try:
        before = next_fire(fleet, "zoned")
        for machine in (server, fleet.nodes[0]):
            machine.run("ln", "-sf", "/usr/share/zoneinfo/Pacific/Auckland", "/etc/localtime")
        server.run("systemctl", "restart", "fleven-server")
        fleet.nodes[0].run("systemctl", "restart", "fleven-agent")
        wait_for("the server answers", lambda: fleet.get("nodes"), 60)
        if (now := next_fire(fleet, "zoned")) != before:
            raise AssertionError(f"next fire moved from {before} to {now} with the zone of the machine")
    finally:
        server.run("fleven-server", "schedule", "remove", "zoned")


def next_fire(fleet: Fleet, schedule: str) -> str:
    answer = fleet.ask(fleet.server, "fleven-server", "schedule", "show", schedule)
    return str(answer.get("next_fire_at"))


def utc_again(fleet: Fleet) -> None:
    for machine in (fleet.server, fleet.nodes[0]):
        machine.run("rm", "-f", "/etc/localtime")


def small_board(fleet: Fleet) -> None:
    """A node starts again with the memory of the smallest boards."""
    node = fleet.nodes[0]
    node.write("/root/memory-kills", f"{node.memory_kills()}\n")
    node.write("/root/meminfo", BOARD_MEMINFO)
    node.run("mount", "--bind", "/root/meminfo", "/proc/meminfo")
    node.limit_memory(BOARD_MEGABYTES)
    node.run("systemctl", "restart", "fleven-agent")


def small_board_trained(fleet: Fleet) -> None:
    """It took part in each round of the run, and the kernel has killed nothing for want of memory."""
    node = fleet.nodes[0]
    try:
        killed = node.memory_kills() - int(node.run("cat", "/root/memory-kills"))
        done = fleet.get(f"nodes/{node.name}/history?hours=1")["tasks"]
        run = done[-1]["flower_run_id"]
        rounds = {
            task["round"]
            for task in done
            if (task["flower_run_id"], task["message_type"], task["outcome"]) == (run, "train", "succeeded")
        }
        if killed or not rounds >= {1, 2, 3}:
            raise AssertionError(f"it trained in rounds {sorted(rounds)}, and the kernel has killed {killed} processes")
    finally:
        whole_board(fleet)


def whole_board(fleet: Fleet) -> None:
    node = fleet.nodes[0]
    node.limit_memory(None)
    node.shell("umount /proc/meminfo; systemctl restart fleven-agent")


def runs_waiting(fleet: Fleet) -> None:
    """Fifty runs wait behind the present one when the server loses its power; none is lost and none comes twice."""
    server = fleet.server
    submit = "fleven-server schedule run --no-follow --json --set rounds=1"
    server.shell(f"for n in $(seq {WAITING}); do {submit}; done >/root/queued", timeout_seconds=600)
    queued = [
        int(json.loads(text)["id"]) for text in server.run("cat", "/root/queued").replace("}\n{", "}\0{").split("\0")
    ]
    server.power_cut()
    fleet.bed.start(server)
    wait_for("the server answers", lambda: fleet.get("nodes"), 60)
    open_states = {"pending", "waiting", "submitted", "running"}
    states = {run: str(fleet.run_json(run).get("state")) for run in queued}
    if lost := [run for run, state in states.items() if state not in {*open_states, "succeeded"}]:
        raise AssertionError(f"{len(lost)} of {len(queued)} queued runs are gone: {states[lost[0]]}")
    waiting = [run for run in queued if states[run] in open_states]
    if len(waiting) < WAITING // 2:
        raise AssertionError(f"only {len(waiting)} runs still waited when the power went: the row shows nothing")
    for run in waiting[3:]:
        server.run("fleven-server", "runs", "stop", str(run))
    for run in waiting[:3]:
        if (state := fleet.wait_end(run, 300)) != "succeeded":
            raise AssertionError(f"queued run {run} ended {state}")


def past_runs(fleet: Fleet) -> None:
    """A year of runs and their files; page, list and the run under way are as before."""
    server = fleet.server
    run = fleet.submit("--set", "rounds=1")
    if (state := fleet.wait_end(run, 300)) != "succeeded":
        raise AssertionError(f"run {run} ended {state}")
    server.run("python3", "-", str(PAST_RUNS), str(FILES_A_RUN), text_input=PAST.read_text())


def past_runs_are_quick(fleet: Fleet) -> None:
    """Ask for what a person looks at while the run is under way."""
    slow = []
    for path in ("/", "/runs", "/v1/runs", "/v1/nodes", "/metrics"):
        answer = fleet.fetch(path, "-o", "/dev/null", "-w", "%{time_total}", timeout_seconds=60)
        if answer.exit_code or float(answer.output) > ANSWER_SECONDS:
            slow.append(f"{path} took {answer.output} s {answer.errors.strip()}")
    if slow:
        raise AssertionError("; ".join(slow))


def server_suspended() -> Fault:
    """The server is suspended while a schedule is due many times; its missed fires are summed up."""
    asleep: list[datetime] = []

    def inject(fleet: Fleet) -> None:
        server = fleet.server
        server.run("fleven-server", "schedule", "add", "often", "--every", "1m", "--set", "rounds=1")
        asleep[:] = [fleet.now()]
        server.freeze()
        try:
            lasting(SUSPENDED_MINUTES * 60)
        finally:
            asleep.append(fleet.now())
            server.thaw()

    def after(fleet: Fleet) -> None:
        runs = fleet.get("runs?schedule=often")["runs"]
        fleet.server.run("fleven-server", "schedule", "remove", "often", "--stop")
        due = [run for run in runs if asleep[0] < datetime.fromisoformat(run["due_at"]) < asleep[1]]
        made = [run["id"] for run in due if run["state"] != "skipped"]
        summed = [run["fires"] for run in due if run["reason"] == "missed"]
        if not made or len(made) > FIRES_ON_TIME or sum(summed) < SUSPENDED_MINUTES - 1 - FIRES_ON_TIME:
            raise AssertionError(f"runs {made} were made of the fires of one sleep, {summed} summed up")

    return Fault(
        f"server suspended for {SUSPENDED_MINUTES} min with a schedule due every minute", inject, after=after,
        holds="the missed fires are summed up in one run", simulated="its processes are frozen, and its clocks go on",
    )  # fmt: skip


def superlink_database_deleted(fleet: Fleet) -> None:
    """Take the SuperLink's memory away: it knows no run and no node any more."""
    fleet.server.shell(
        "rm /var/lib/fleven-server/superlink.db*; systemctl kill --signal=KILL fleven-superlink; "
        "timeout 60 sh -c 'until systemctl is-active -q fleven-superlink; do sleep 0.5; done'"
    )


def daemon_reexec(fleet: Fleet) -> None:
    """What an upgrade of systemd does."""
    for machine in (fleet.server, fleet.nodes[0]):
        machine.run("systemctl", "daemon-reexec")


def journald_killed(fleet: Fleet) -> None:
    for machine in (fleet.server, fleet.nodes[0]):
        machine.run("systemctl", "kill", "--signal=KILL", "systemd-journald")


def rows() -> list[Fault]:
    """In the order of the table."""
    clock_of = "libfaketime in all its services, whose threads it also makes wait longer"
    return [
        Fault("clock of a node 1 h ahead", clock(lambda fleet: fleet.nodes[:1], "+1h"), simulated=clock_of),
        Fault("clock of a node jumping", clock(lambda fleet: fleet.nodes[:1], "+1h", "-1h"), simulated=clock_of),
        Fault(
            "a node starts in 1970 and gets the time after a minute", clock_of_1970, simulated=clock_of,
            after=lambda fleet: real_clock(fleet.nodes[0]),
        ),
        Fault(
            "clock of the server 1 h ahead of all nodes'", clock(lambda fleet: fleet.nodes, "-1h"),
            simulated="libfaketime sets theirs back, and makes their threads wait longer",
        ),
        Fault(
            "time zone of node and server changes", zone_changed, by_hand="sets another zone", after=utc_again,
            holds="a schedule with a zone of its own stays where it was",
        ),
        Fault(
            "a node with 512 MB", small_board, idle=True, after=small_board_trained,
            holds="it trains in each round, and the kernel kills nothing for want of memory",
            simulated="limit of its control group; /proc/meminfo of a Raspberry Pi Zero 2 W",
        ),
        Fault(
            "two nodes with one partition-id", other_partition, by_hand="gives one its own number again",
            holds="the partition-id that the server has bound counts; check names both",
        ),
        Fault(
            "two nodes with one hostname", same_name, by_hand="gives one its own name again",
            holds="the second keeps the name that the server has bound",
        ),
        Fault(
            "node of another Flower version", other_flower,
            by_hand="installs the right version", simulated="only the version number differs",
        ),
        Fault("node.toml broken by the operator and mended", configuration_broken, by_hand="mends it and starts it"),
        Fault(
            "port of the Control API in node.toml", wrong_port, by_hand="mends it and starts it",
            holds="a condition names the Control API within 60 s",
        ),
        Fault("upgrade of a node in a round", package_changed("newer"), before=newer_node, by_hand="apt install"),
        Fault("downgrade of a node in a round", package_changed("older", "--allow-downgrades"), by_hand="apt install"),
        Fault(
            "upgrade of the server in a round", server_upgraded, by_hand="apt install",
            before=newer_server, after=server_downgraded,
        ),
        Fault("apt remove of a node in a round, and back", package_removed, by_hand="apt remove, install, start"),
        Fault(
            f"{WAITING} runs queued and a power cut of the server", runs_waiting,
            holds="none is lost; the next three succeed",
        ),
        Fault(
            f"{PAST_RUNS} past runs with {PAST_RUNS * FILES_A_RUN:,} files", past_runs_are_quick, before=past_runs,
            holds=f"pages and lists within {ANSWER_SECONDS:g} s", simulated="copies of one run",
        ),
        Fault(
            "superlink.db deleted", superlink_database_deleted, by_hand="deletes it and restarts the SuperLink",
        ),
        server_suspended(),
        Fault("systemd of node and server starts itself anew (daemon-reexec)", daemon_reexec),
        Fault("kill -9 of the journal's daemon on node and server", journald_killed),
    ]  # fmt: skip
