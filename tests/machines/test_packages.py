"""The packages on booted machines: installed by apt, used by the README's commands, upgraded, and purged without trace.

The tests build on each other, as an operator's days do: each leaves the fleet running for the next.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed.fleet import NEWER, Fleet, install, newer_version, together
from testbed.machine import Machine
from testbed.shell import missing_programs, wait_for

pytestmark = [pytest.mark.machines, pytest.mark.timeout(900)]

PROJECT = Path(__file__).resolve().parents[2]
UNITS = {"server": ("fleven-superlink", "fleven-server"), "node": ("fleven-agent",)}
# What changes on any running machine, and what dpkg and the journal keep about packages that were there.
CHANGES_ANYWAY = re.compile(
    r"^/(proc|sys|dev|run|tmp|mnt|root|var/(log|cache|tmp)|var/lib/(dpkg|apt|systemd|private))(/|$)|/__pycache__(/|$)"
    r"|^/etc/(passwd|group|shadow|gshadow)-$"
)


SEED = "/etc/fleven/node.toml.d/10-fleet.toml"


def trace(machine: Machine) -> dict[str, list[str]]:
    """All that a package could leave behind: files, users, units, alternatives, control groups."""
    files = machine.run("find", "/", "-xdev").splitlines()
    return {
        "files": sorted(path for path in files if not CHANGES_ANYWAY.search(path)),
        "runtime": machine.shell("ls /run").split(),
        "users": machine.shell("cut -d: -f1 /etc/passwd /etc/group").split(),
        "units": machine.shell("systemctl list-unit-files --no-legend | cut -d' ' -f1").split(),
        "alternatives": machine.shell("update-alternatives --get-selections | cut -d' ' -f1").split(),
        "groups": machine.shell("find /sys/fs/cgroup -name 'fleven*' -type d").split(),
    }


@pytest.fixture(scope="module")
def before(fleet: Fleet) -> dict[str, dict[str, list[str]]]:
    """What was on the machines before anything was installed."""
    machines = [fleet.server, fleet.nodes[0]]
    traces = together(*[lambda m=m: trace(m) for m in machines])
    return {machine.name: found for machine, found in zip(machines, traces, strict=True)}


@pytest.fixture(scope="module")
def policy(debs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Lintian's look at the packages, which takes minutes: it goes on beside the machines, which mostly wait."""
    log = tmp_path_factory.mktemp("policy") / "verify.log"
    command = ["nice", "-n", "10", PROJECT / "packaging/verify.sh", debs]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    yield process, log
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


@pytest.mark.usefixtures("policy")
def test_apt_installs_both_packages_and_a_node_waits_for_its_two_lines(
    fleet: Fleet, before: dict[str, dict[str, list[str]]]
) -> None:
    seeded = fleet.nodes[2]
    seeded.write(SEED, f'partition-id = 2\nsuperlink = "{fleet.server.address}:9092"\n')
    # An operator may well have this name already.
    fleet.nodes[1].run("useradd", "--create-home", "fleven")
    fleet.install()
    assert seeded.show("fleven-agent", "ActiveState") == "active", "configured before the install"
    node = fleet.nodes[0]
    assert node.show("fleven-agent", "ActiveState") == "inactive"
    assert node.show("fleven-agent", "UnitFileState") == "enabled"
    assert "set partition-id and superlink in /etc/fleven/node.toml" in node.journal("-u", "fleven-agent")
    assert node.try_run("fleven-agent", "run").exit_code == 78
    for unit in (*UNITS["server"], "fleven-server.target"):
        wait_for(f"{unit} active", lambda u=unit: fleet.server.show(u, "ActiveState") == "active", 60)


def test_two_lines_and_a_start_make_every_node_ready(fleet: Fleet) -> None:
    fleet.start_agents()
    fleet.step("all nodes ready", fleet.wait_ready)
    status = fleet.ask(fleet.nodes[1], "fleven-agent", "status")
    assert (status["state"], status["node"]["partition_id"]) == ("running", 1)


def test_a_federated_run_of_the_shipped_app_ends_well(fleet: Fleet) -> None:
    result = fleet.step("a run of 3 rounds", lambda: fleet.run_now("--set", "rounds=3", "--min-nodes", "3"))
    assert result.exit_code == 0, result.output + result.errors
    for node in fleet.nodes:  # each car has an error of its own in the table
        assert re.search(rf"^{node.name} +\d+\.\d+", result.output, re.MULTILINE), result.output
        warm = fleet.ask(node, "fleven-agent", "status")["warm"]
        # A query and three rounds; the first task may come before the warm process is ready.
        assert warm["tasks_warm"] >= 2, warm
        assert warm["last_cold_reason"] in {None, "absent"}, warm


def test_flowers_own_commands_work_beside_the_scheduler(fleet: Fleet) -> None:
    flwr = (
        "env", "FLWR_HOME=/var/lib/fleven-server/flwr", "/usr/lib/fleven/server/bin/flwr",
    )  # fmt: skip
    run = (*flwr, "run", "/usr/share/fleven/app", "fleven-deployment", "--stream", "--run-config", "rounds=1")
    done = fleet.server.try_run(*run, user="fleven-server", timeout_seconds=300)
    assert done.exit_code == 0, done.output + done.errors
    listed = fleet.server.try_run(*flwr, "ls", "fleven-deployment", "--format", "json", user="fleven-server")
    assert json.loads(listed.output)["runs"][0]["status"] == "finished:completed", listed.output


def test_a_run_goes_on_when_the_superlinks_executor_is_killed_and_another_starts(fleet: Fleet) -> None:
    """In the sandbox of the unit, where processes may be hidden; the second one is no child of the SuperLink."""

    def kill_executor() -> None:
        old = set(fleet.server.processes("bin/flower-superexec"))
        assert old
        fleet.server.run("kill", "-9", *map(str, old))
        wait_for("another executor", lambda: set(fleet.server.processes("bin/flower-superexec")) - old, 60)

    assert "executor=died" not in fleet.server.journal("-u", "fleven-superlink")
    kill_executor()
    run = fleet.submit("--set", "rounds=3", "--min-nodes", "3")
    fleet.wait_round(run, 1)
    kill_executor()
    assert fleet.wait_end(run) == "succeeded"
    assert fleet.run_json(run)["attempts"] == 1


def test_the_sandbox_is_tight_with_training_passing_under_it(fleet: Fleet) -> None:
    for machine, units in ((fleet.server, UNITS["server"]), (fleet.nodes[0], UNITS["node"])):
        for unit in units:
            said = machine.run("systemd-analyze", "security", "--no-pager", unit)
            exposure = re.search(r"exposure level for \S+: (\d+\.\d+)", said)
            assert exposure is not None, said
            assert float(exposure.group(1)) <= 2.0, said
            assert machine.show(unit, "User") in {"fleven", "fleven-server"}


@pytest.mark.slow  # also a row of the fault matrix, and of tests/flower without a booted machine
def test_a_run_goes_on_when_a_supernode_is_killed_and_the_node_comes_back(fleet: Fleet) -> None:
    run = fleet.submit("--set", "rounds=3", "--min-nodes", "3")
    fleet.wait_round(run, 1)
    node = fleet.nodes[0]
    old = node.processes("flower-supernode")
    assert old
    node.run("kill", "-KILL", *map(str, old))
    wait_for("a new SuperNode", lambda: set(node.processes("flower-supernode")) - set(old), 30)
    assert fleet.wait_end(run) == "succeeded"
    fleet.wait_ready()


def test_a_power_cut_and_a_reboot_bring_a_node_back_by_itself(fleet: Fleet) -> None:
    node = fleet.nodes[2]
    fleet.step("power cut until ready", lambda: (node.power_cycle(), fleet.wait_ready(node.name)))
    fleet.step("reboot until ready", lambda: (node.reboot(), fleet.wait_ready(node.name)))


def test_a_wrong_configuration_stops_with_78_and_is_not_tried_again(fleet: Fleet) -> None:
    node = fleet.nodes[2]
    node.write("/etc/fleven/node.toml.d/90-wrong.toml", 'partition = 3\nsuperlink = "nowhere"\n')
    node.try_run("systemctl", "restart", "fleven-agent")
    wait_for("failed", lambda: node.show("fleven-agent", "ActiveState") == "failed", 60)
    assert node.show("fleven-agent", "ExecMainStatus") == "78"
    assert "90-wrong.toml: partition: unknown key" in node.journal("-u", "fleven-agent", "-n", "20")
    node.run("rm", "/etc/fleven/node.toml.d/90-wrong.toml")
    node.run("systemctl", "start", "fleven-agent")
    fleet.wait_ready(node.name)


def test_the_agent_reads_trips_in_a_home_folder_when_the_operator_allows_it(fleet: Fleet) -> None:
    node = fleet.nodes[1]
    node.shell(
        "useradd --create-home pi; chmod 0700 /home/pi; cp -r /var/lib/fleven/data/client_1 /home/pi/trips; "
        "chown -R pi: /home/pi/trips; chmod 0750 /home/pi/trips; chmod 0640 /home/pi/trips/*"
    )
    node.write("/etc/fleven/node.toml.d/20-trips.toml", 'data-path = "/home/pi/trips"\n')
    node.run("systemctl", "restart", "fleven-agent")
    wait_for("no trips to be seen", lambda: fleet.node_states()[node.name].health != "ready", 120)
    # By root, who may see them: what counts is what the service sees.
    checked = node.try_run("fleven-agent", "check", "--only", "data.readable")
    assert checked.exit_code == 1, checked.output
    assert "fleven-agent config allow-data PATH" in checked.output
    said = node.run("fleven-agent", "config", "allow-data", "/home/pi/trips")
    for step in re.findall(r"^next: (.*)$", said, re.MULTILINE):
        node.shell(step)
    fleet.wait_ready(node.name)
    assert "2 trips" in node.run("fleven-agent", "check", "--only", "data.readable")
    run = fleet.submit("--set", "rounds=1", "--min-nodes", "3")
    assert fleet.wait_end(run) == "succeeded"


def test_man_pages_and_completions_are_there(fleet: Fleet) -> None:
    for machine, pages in (
        (fleet.nodes[0], ("fleven-agent(8)", "node.toml(5)", "fleven(1)")),
        (fleet.server, ("fleven-server(8)", "server.toml(5)", "fleven(1)")),
    ):
        for page in pages:
            name, section = page.rstrip(")").split("(")
            assert name in machine.run("man", "--warnings=no", section, name)
    # complete as a shell does after "fleven-agent st<TAB>"
    assert "status" in fleet.nodes[0].shell(
        "source /usr/share/bash-completion/bash_completion; _completion_loader fleven-agent || true; "
        'function=$(complete -p fleven-agent | sed "s/.*-F \\([^ ]*\\).*/\\1/"); '
        'COMP_WORDS=(fleven-agent st); COMP_CWORD=1; COMP_LINE="fleven-agent st"; COMP_POINT=15; '
        '$function fleven-agent st fleven-agent; echo "${COMPREPLY[@]}"'
    )


@pytest.fixture
def newer(debs: Path) -> Iterator[Path]:
    """The node's package under the next version number, otherwise the same."""
    new = debs / NEWER
    newer_version(sorted(debs.glob("fleven-node_*.deb"))[-1], new)
    yield new
    new.unlink()


def test_upgrade_in_a_round_and_downgrade_keep_configuration_and_fleet(fleet: Fleet, newer: Path) -> None:
    node = fleet.nodes[0]
    before_upgrade = node.run("cat", "/etc/fleven/node.toml")
    run = fleet.submit("--set", "rounds=4", "--min-nodes", "3")
    fleet.wait_round(run, 1)
    fleet.step("apt upgrade in a round", lambda: install(node, f"{fleet.debs.name}/{newer.name}"))
    fleet.step("upgraded node ready", lambda: fleet.wait_ready(node.name))
    assert fleet.wait_end(run) == "succeeded"
    older = fleet.package("node")
    node.run("apt-get", "install", "-y", "--allow-downgrades", f"./mnt/{older}", timeout_seconds=900)
    fleet.wait_ready(node.name)
    assert node.run("cat", "/etc/fleven/node.toml") == before_upgrade
    assert not fleet.ask(node, "fleven-agent", "status")["drained"]["active"]


def test_an_upgrade_that_fails_leaves_the_old_agent_at_work(fleet: Fleet, newer: Path) -> None:
    node = fleet.nodes[0]
    version = node.run("dpkg-query", "-W", "-f", "${Version}", "fleven-node")
    node.shell(f"dpkg-deb -R /mnt/{fleet.debs.name}/{newer.name} /root/broken")
    node.write("/root/broken/DEBIAN/preinst", "#!/bin/sh\nexit 1\n")
    node.shell("chmod 755 /root/broken/DEBIAN/preinst; dpkg-deb -Znone -b /root/broken /root/broken.deb")
    assert node.try_run("apt-get", "install", "-y", "/root/broken.deb", timeout_seconds=600).exit_code != 0
    assert (
        node.run("dpkg-query", "-W", "-f", "${Version} ${Status}", "fleven-node") == f"{version} install ok installed"
    )
    fleet.wait_ready(node.name)
    assert not fleet.ask(node, "fleven-agent", "status")["drained"]["active"]
    assert node.show("fleven-agent", "ActiveState") == "active"
    # Without these each task of Flower would compile torch anew, in a sandbox that cannot keep the result.
    assert node.shell("find /usr/lib/fleven/node -name '*.pyc' | head -n 1")


def test_purge_leaves_nothing_but_the_operators_trips(fleet: Fleet, before: dict[str, dict[str, list[str]]]) -> None:
    # A logger of another account writes where its group may: nothing of its trips becomes somebody else's.
    logger_trip = "/var/lib/fleven/data/client_0/logger.csv"
    fleet.nodes[0].shell(f"install -o daemon -g fleven -m 0640 /dev/null {logger_trip}")
    for machine, package in ((fleet.server, "fleven-server"), (fleet.nodes[0], "fleven-node")):
        machine.run("apt-get", "remove", "-y", package)
        name = "server" if package == "fleven-server" else "node"
        assert machine.try_run("test", "-e", f"/etc/fleven/{name}.toml").exit_code == 0, "conffiles survive a removal"
        said = machine.run("apt-get", "purge", "-y", package)
        after = trace(machine)
        left = {kind: sorted(set(found) - set(before[machine.name][kind])) for kind, found in after.items()}
        if package == "fleven-node":
            assert "your trips stay in /var/lib/fleven/data" in said
            trips = [path for path in left["files"] if re.match(r"/var/lib/fleven(/data(/|$)|$)", path)]
            assert any(path.endswith(".parquet") for path in trips)
            assert machine.run("stat", "-c", "%U %G", logger_trip).split() == ["daemon", "root"]
            left["files"] = [path for path in left["files"] if path not in trips]
        assert not any(left.values()), f"{machine.name}: {left}"


def test_purge_keeps_an_account_that_was_there_before_and_a_mounted_disk_of_trips(fleet: Fleet) -> None:
    node = fleet.nodes[1]
    node.run("systemctl", "stop", "fleven-agent")
    node.shell(
        "cp -a /var/lib/fleven/data /root/trips; mount -t tmpfs tmpfs /var/lib/fleven/data; "
        "cp -a /root/trips/. /var/lib/fleven/data; install -d -o fleven /var/lib/fleven/data/empty; "
        "install -o fleven -m 0600 /dev/null /var/lib/fleven/notes; "
        "mount -t tmpfs tmpfs /var/lib/fleven/spool; touch /var/lib/fleven/spool/report"
    )
    listed = ("find", "/var/lib/fleven/data", "/var/lib/fleven/notes", "-printf", "%p %u %s\\n")
    trips = node.run(*listed)
    account = node.run("getent", "passwd", "fleven")
    said = node.run("apt-get", "purge", "-y", "fleven-node")
    assert "your trips stay in /var/lib/fleven/data" in said
    assert node.run(*listed) == trips
    assert node.run("findmnt", "-no", "FSTYPE", "/var/lib/fleven/data").strip() == "tmpfs"
    assert node.run("getent", "passwd", "fleven") == account
    assert node.try_run("test", "-d", "/home/fleven").exit_code == 0
    # A mounted folder of the agent's own is emptied, and is nobody's trips.
    assert node.run("ls", "-A", "/var/lib/fleven/spool") == ""
    assert "/var/lib/fleven/spool" not in said
    assert node.run("ls", "/var/lib/fleven").split() == ["data", "notes", "spool"]


def test_the_packages_follow_debians_policy(policy: tuple[subprocess.Popen[bytes], Path], debs: Path) -> None:
    if missing := missing_programs("lintian"):
        pytest.skip(f"missing programs: {', '.join(missing)} (run tests/machines/setup as root)")
    process, log = policy
    exit_code = process.wait(600)
    said = log.read_text(errors="replace")
    assert exit_code == 0, said
    assert said.count("is clean") == len(list(debs.glob("fleven-*.deb"))), said
