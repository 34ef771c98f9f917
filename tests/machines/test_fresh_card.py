"""Cards that have never been booted join by themselves; and a server's machine is lost, and its backup taken up.

What is tried is what the commands print, on the packages: the file that `--drop-in` writes, as root, and the user-data
for cloud-init, of which the machine does what cloud-init does with it. Then nobody goes to a car any more.
"""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
import yaml
from testbed.fleet import Fleet, install, together
from testbed.machine import Machine
from testbed.shell import wait_for

pytestmark = [pytest.mark.machines, pytest.mark.slow, pytest.mark.timeout(900)]
PASSPHRASE = "/root/passphrase"


def status(node: Machine) -> dict[str, Any]:
    """What a car's agent says; empty while it does not answer."""
    result = node.try_run("fleven-agent", "status", "--json")
    return dict(json.loads(result.output)) if result.exit_code == 0 else {}


def ready(fleet: Fleet) -> set[str]:
    """Return the names of the cars that the server finds ready."""
    nodes = fleet.ask(fleet.server, "fleven-server", "nodes")["nodes"]
    return {one["name"] for one in nodes if one["health"] == "ready"}


def test_a_card_with_a_file_of_roots_and_one_with_cloud_init_join_at_their_first_boot(fleet: Fleet) -> None:
    card, cloud, _ = fleet.nodes
    install(fleet.server, fleet.package("server"))
    together(*[lambda n=node: install(n, fleet.package("node")) for node in (card, cloud)])
    for number, node in enumerate((card, cloud)):
        fleet.give_trips(node, number)

    file = "/root/50-join.toml"
    fleet.server.run("fleven-server", "nodes", "invite", "from-a-card", "--drop-in", file)
    content = fleet.server.run("cat", file)
    assert "join" in tomllib.loads(content)
    card.shell(f"umask 077; cat >/etc/fleven/node.toml.d/50-join.toml <<'END'\n{content}END")
    card.reboot()

    data = yaml.safe_load(fleet.server.run("fleven-server", "nodes", "invite", "from-the-cloud", "--cloud-init"))
    for one in data["write_files"]:
        cloud.shell(f"cat >{one['path']} <<'END'\n{one['content']}END\nchmod {one['permissions']} {one['path']}")
    for command in data["runcmd"]:
        cloud.run(*command)

    for node in (card, cloud):
        wait_for(f"{node.name} running", lambda n=node: status(n).get("state") == "running", 120)
        mode = node.run("stat", "-c", "%U:%G %a", "/etc/fleven/node.toml.d/50-join.toml").strip()
        assert mode == "root:fleven 640"
    wait_for("both ready", lambda: ready(fleet) == {"from-a-card", "from-the-cloud"}, 180, 2.0)


def test_the_cars_train_with_a_server_that_was_restored_from_its_backup(fleet: Fleet) -> None:
    server = fleet.server
    server.write(PASSPHRASE, "correct horse battery\n")
    server.run("fleven-server", "backup", "/root/fleet.backup", "--passphrase-file", PASSPHRASE)
    assert server.run("stat", "-c", "%U %a", "/root/fleet.backup").strip() == "root 600"
    running = server.try_run(
        "fleven-server", "restore", "/root/fleet.backup", "--passphrase-file", PASSPHRASE, "--force"
    )
    assert running.exit_code == 75, running.output + running.errors
    key = server.run("sha256sum", "/var/lib/fleven-server/trust/ca.key")

    # As on a new machine: the package's own first start has made another authority.
    server.run("systemctl", "stop", "fleven-server", "fleven-superlink")
    server.shell("find /var/lib/fleven-server -mindepth 1 -delete; rm -f /etc/fleven/server.toml.d/*")
    server.run("systemctl", "start", "fleven-superlink", "fleven-server")
    made = ("test", "-e", "/var/lib/fleven-server/trust/ca.key")
    wait_for("another authority", lambda: server.try_run(*made).exit_code == 0, 60)
    assert server.run("sha256sum", "/var/lib/fleven-server/trust/ca.key") != key
    server.run("systemctl", "stop", "fleven-server", "fleven-superlink")
    restore = ["fleven-server", "restore", "/root/fleet.backup", "--passphrase-file", PASSPHRASE]
    refused = server.try_run(*restore)
    assert (refused.exit_code, "--force" in refused.errors) == (2, True), refused.errors
    done = json.loads(server.run(*restore, "--force", "--json"))
    assert (done["problems"], done["cars"]) == ([], 2)
    assert server.run("sha256sum", "/var/lib/fleven-server/trust/ca.key") == key
    owners = server.shell(
        "find /var/lib/fleven-server /etc/fleven/server.toml -printf '%u %p\\n' | grep -v '^fleven-server '"
    )
    assert [line for line in owners.splitlines() if not line.endswith("server.toml")] == []
    server.run("systemctl", "start", "fleven-superlink", "fleven-server")

    fleet.step("cars ready after a restore", lambda: wait_for("both", lambda: len(ready(fleet)) == 2, 180, 2.0))
    result = fleet.run_now("--set", "rounds=1", "--min-nodes", "2")
    assert result.exit_code == 0, result.output + result.errors


NEW_KEY = "import pyrage; key = pyrage.x25519.Identity.generate(); print(key, key.to_public())"
BACKUPS = "/var/lib/fleven-server/backups"


def test_another_machine_takes_up_what_the_service_seals_each_night(fleet: Fleet) -> None:
    server, other = fleet.server, fleet.nodes[2]
    install(other, fleet.package("server"))
    other.run("systemctl", "stop", "fleven-server", "fleven-superlink")
    python = other.shell("head -1 $(readlink -f /usr/bin/fleven-server)").removeprefix("#!").split()[0]
    private, public = other.run(python, "-c", NEW_KEY).split()
    other.shell("umask 077; cat >/root/key.txt <<END\n" + private + "\nEND")

    # What goes wrong is told: in the journal, by `check`, by `status` and on the page.
    server.write("/etc/fleven/server.toml.d/60-backup.toml", f'[backup]\nrecipients = ["{public}"]\n')
    server.run("chown", "root:root", BACKUPS)
    server.run("chmod", "755", BACKUPS)
    server.run("touch", "-d", "30 days ago", f"{BACKUPS}/fleven-2026-01-01.age")
    server.run("systemctl", "restart", "fleven-server")
    failed = "the nightly backup with keys failed: "

    def problems() -> str:
        return " ".join(json.loads(server.try_run("fleven-server", "status", "--json").output)["problems"])

    wait_for("the failure is told", lambda: failed in problems(), 60)
    checked = server.try_run("fleven-server", "check", "--only", "register.backup", "--json")
    assert failed in checked.output, checked.output + checked.errors
    assert failed in fleet.fetch("/").output
    assert "event=housekeeping-failed job=sealed-backup" in server.journal("-u", "fleven-server", "-p", "warning")

    def told() -> str:
        return server.journal("-u", "fleven-server", "--since", "-5min")

    # Nobody calls anything: the service makes it, inside its sandbox, and takes old ones away.
    server.run("chown", "fleven-server:fleven-server", BACKUPS)
    server.run("systemctl", "restart", "fleven-server")
    since = ("find", BACKUPS, "-name", "fleven-*.age", "-printf", "%f %u %m\n")
    made = wait_for("the sealed backup", lambda: server.run(*since) if "event=backup-with-keys" in told() else "", 60)
    [name, user, mode] = made.split()
    assert (user, mode) == ("fleven-server", "600")
    assert failed not in problems()
    [checked_now] = fleet.ask(server, "fleven-server", "check", "--only", "register.backup")["checks"]
    assert checked_now["status"] == "ok"
    assert f"with the keys: {name}" in checked_now["message"]

    # The old machine is gone, and another has its address.
    content = server.shell(f"base64 -w0 {BACKUPS}/{name}")
    other.run("sh", "-c", f"base64 -d >/root/{name}", text_input=content)
    server.run("systemctl", "stop", "fleven-server", "fleven-superlink")
    fleet.bed.switch.take_down(server.name)
    fleet.bed.switch.readdress(other.name, other.address, server.address)
    restore = ["fleven-server", "restore", f"/root/{name}", "--identity", "/root/key.txt", "--force", "--json"]
    done = json.loads(other.run(*restore))
    assert (done["problems"], done["cars"]) == ([], 2)
    other.run("systemctl", "start", "fleven-superlink", "fleven-server")
    fleet.server = other
    fleet.step("cars ready at another machine", lambda: wait_for("both", lambda: len(ready(fleet)) == 2, 180, 2.0))
    result = fleet.run_now("--set", "rounds=1", "--min-nodes", "2")
    assert result.exit_code == 0, result.output + result.errors
