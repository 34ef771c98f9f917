"""The machine: whether space, memory, temperature and power allow it to train."""

from pathlib import Path

from fleven_agent.checks.context import Context, configured, settings_of
from fleven_agent.common import firewall
from fleven_agent.common.addresses import split
from fleven_agent.common.checks import Check, Result, error, ok, skipped, warning
from fleven_agent.monitoring.machine import Reader

CONTROLLERS = Path("/sys/fs/cgroup/cgroup.controllers")
CONTROLLERS_OF_VERSION_1 = Path("/proc/cgroups")
"""A table of all, with whether each is enabled in the last column."""


def disk(context: Context) -> Result:
    """Free space at the state folder and at data-path."""
    settings = settings_of(context)
    state = next(one for one in (context.state_directory, *context.state_directory.parents) if one.exists())
    found = [*Reader([str(state)]).disks()]
    if context.trips is not None and context.trips.disk is not None:
        found.append(context.trips.disk)
    if not found:
        return skipped("no path exists yet")
    least = min(found, key=lambda one: one.free_bytes)
    message = f"{least.free_bytes / 1e6:.0f} MB free at {least.path}"
    if least.free_bytes < settings.gates.disk_minimum_megabytes * 1e6:
        return error(f"{message}: the gate keeps the car from training", "free some space")
    if least.free_bytes < settings.health.disk_warning_megabytes * 1e6:
        return warning(message, "free some space")
    return ok(message)


def memory(context: Context) -> Result:
    """Available memory."""
    settings, readings = settings_of(context), Reader([]).read()
    available, total = readings.memory_available_bytes or 0, readings.memory_total_bytes or 0
    message = f"{available / 1e6:.0f} of {total / 1e6:.0f} MB available"
    if available < settings.gates.memory_minimum_megabytes * 1e6:
        return error(f"{message}: the gate keeps the car from training", "stop other programs, or add swap")
    if available < settings.health.memory_warning_megabytes * 1e6:
        return warning(message, "stop other programs, or add swap")
    return ok(message)


def memory_limit(_context: Context) -> Result:
    """The kernel can hold the service to its share of the memory; Raspberry Pi OS starts it without."""
    try:
        controllers = CONTROLLERS.read_text(encoding="ascii").split()
    except FileNotFoundError:
        rows = [line.split() for line in CONTROLLERS_OF_VERSION_1.read_text(encoding="ascii").splitlines()]
        controllers = [row[0] for row in rows if row[-1] == "1"]
    if "memory" in controllers:
        return ok("the service's MemoryMax= holds")
    return warning(
        "the kernel does not limit memory: training could take what the car's own software needs",
        "add cgroup_enable=memory to the line in /boot/firmware/cmdline.txt, and reboot",
    )


def temperature(context: Context) -> Result:
    """The processor's temperature."""
    settings, found = settings_of(context), Reader([]).temperature()
    if found is None:
        return skipped("this machine reports no temperature")
    message = f"{found:.0f} °C"
    limit = settings.gates.temperature_maximum_celsius
    if limit is not None and found >= limit:
        return error(f"{message}: the gate keeps the car from training", "give the board airflow or a heat sink")
    if found >= settings.health.temperature_warning_celsius:
        return warning(message, "give the board airflow or a heat sink")
    return ok(message)


def power(_context: Context) -> Result:
    """The supply of a Raspberry Pi."""
    found = Reader([]).throttling()
    if found is None:
        return skipped("this machine does not report its supply voltage")
    if found.undervoltage:
        return error("the supply voltage is too low now", "use a supply that holds 5 V at 3 A, and a short thick cable")
    if found.undervoltage_occurred:
        return warning(
            "the supply voltage has been too low at some time since boot", "use a stronger supply or a thicker cable"
        )
    return ok("the supply voltage is good")


FIREWALL_UNIT, FIREWALL_TABLE = "fleven-node-firewall.service", "fleven_node"
FIREWALL_PORTS = range(9094, 9097)


def local_users(context: Context) -> Result:
    """Only the agent's user reaches SuperNode's port for tasks."""
    found = firewall.look(FIREWALL_UNIT, FIREWALL_TABLE)
    if not found.installed:
        return skipped("only the package brings an nftables table")
    port = split(settings_of(context).clientapp_address)[1]
    wrong = firewall.problem(found, FIREWALL_UNIT, f"port {port}, and may answer in this car's name")
    if wrong is not None:
        return warning(*wrong)
    if port not in FIREWALL_PORTS:
        hint = f"use one of {FIREWALL_PORTS[0]} to {FIREWALL_PORTS[-1]} in clientapp-address, or add a table"
        return warning(f"{FIREWALL_UNIT} does not cover port {port}", hint)
    return ok(f"only root and the agent reach port {port}")


CHECKS = (
    Check("machine.disk", "free disk space", configured(disk)),
    Check("machine.memory", "available memory", configured(memory)),
    Check("machine.memory-limit", "memory limit of the service", memory_limit),
    Check("machine.temperature", "temperature", configured(temperature)),
    Check("machine.power", "supply voltage", power),
    Check("machine.local-users", "who reaches the port for tasks", configured(local_users)),
)
