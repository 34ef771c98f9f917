"""Reads the machine through /proc and /sys. What a machine does not have is None, never zero."""

import contextlib
import os
import subprocess
import time
from pathlib import Path

from fleven_agent.protocol.readings import AgentUse, Disk, Network, Pressure, ProcessTree, Readings, Throttling
from fleven_agent.system import procfs, totals

# Names of thermal zones that measure the processor, best first: Raspberry Pi, Intel, others.
_PROCESSOR_ZONES = ("cpu-thermal", "cpu_thermal", "x86_pkg_temp", "soc-thermal", "soc_thermal", "acpitz")


class Reader:
    """Reads the machine; finds its sensors once.

    Args:
        paths: whose file systems are to be watched.
        sys: the /sys to read, a folder of fixtures in tests.
        proc: the /proc to read.
    """

    def __init__(self, paths: list[str], *, sys: Path = Path("/sys"), proc: Path = Path("/proc")) -> None:
        self.paths = paths
        self._sys, self._proc = sys, proc
        self._temperature = _temperature_file(sys)
        self._throttled = sys / "devices/platform/soc/soc:firmware/get_throttled"
        self._under_voltage_alarm = _under_voltage_alarm(sys)
        self._clock: bool | None = None
        self._clock_answer: bool | None = None
        self._clock_at = self._clock_asked_at = float("-inf")
        self._clock_question_seconds = CLOCK_QUESTION_SECONDS
        self._processors = totals.Processors(proc)

    def read(self) -> Readings:
        """Return what can be read now, without the process trees."""
        memory = totals.memory(self._proc)
        load = os.getloadavg()
        return Readings(
            cpu_count=os.cpu_count(),
            cpu_percent=self._processors.percent(),
            load_1m=load[0],
            load_5m=load[1],
            load_15m=load[2],
            memory_total_bytes=memory.total,
            memory_available_bytes=memory.available,
            swap_total_bytes=memory.swap_total,
            swap_used_bytes=memory.swap_used,
            pressure=self.pressure(),
            disks=self.disks(),
            temperature_celsius=self.temperature(),
            throttling=self.throttling(),
            network=self.network(),
            clock_synchronised=self.clock_synchronised(),
            uptime_seconds=time.clock_gettime(time.CLOCK_BOOTTIME),
            agent=agent_use(),
        )

    def temperature(self) -> float | None:
        """Return the processor's temperature [degrees Celsius]."""
        if self._temperature is None:
            return None
        try:
            return int(self._temperature.read_text(encoding="ascii")) / 1000
        except (OSError, ValueError):
            return None

    def throttling(self) -> Throttling | None:
        """Return what the firmware of a Raspberry Pi says; None elsewhere.

        Bits: https://www.raspberrypi.com/documentation/computers/os.html, `vcgencmd get_throttled`.
        """
        try:
            bits = int(self._throttled.read_text(encoding="ascii").strip(), 16)
        except (OSError, ValueError):
            return self._voltage_only()
        return Throttling(
            undervoltage=bool(bits & 1 << 0),
            frequency_capped=bool(bits & 1 << 1),
            throttled=bool(bits & 1 << 2),
            soft_temperature_limit=bool(bits & 1 << 3),
            undervoltage_occurred=bool(bits & 1 << 16),
            throttled_occurred=bool(bits & 1 << 18),
        )

    def _voltage_only(self) -> Throttling | None:
        if self._under_voltage_alarm is None:
            return None
        try:
            alarm = self._under_voltage_alarm.read_text(encoding="ascii").strip() == "1"
        except OSError:
            return None
        return Throttling(undervoltage=alarm)

    def pressure(self) -> Pressure | None:
        """Return how much tasks wait for a resource; None on a kernel without PSI."""
        values = [self._pressure_of(name) for name in ("cpu", "memory", "io")]
        return None if all(value is None for value in values) else Pressure(*values)

    def _pressure_of(self, name: str) -> float | None:
        try:
            first = (self._proc / "pressure" / name).read_text(encoding="ascii").split("\n", 1)[0]
            return float(first.split("avg10=", 1)[1].split(" ", 1)[0])
        except (OSError, ValueError, IndexError):
            return None

    def disks(self) -> tuple[Disk, ...]:
        """Return the space at each watched path that exists."""
        found: list[Disk] = []
        for path in self.paths:
            with contextlib.suppress(OSError):
                space = os.statvfs(path)
                found.append(Disk(path, space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize))
        return tuple(found)

    def network(self) -> Network | None:
        """Return what the network has carried since boot."""
        found = totals.traffic(self._proc)
        if found is None:
            return None
        return Network(found.received_bytes, found.sent_bytes, found.receive_errors, found.send_errors)

    def clock_synchronised(self) -> bool | None:
        """Return whether the clock counts as synchronised; None when nothing on the machine says.

        The kernel and a file of systemd-timesyncd are asked every minute. Where neither answers, as in a hardened unit
        beside chrony, systemd is asked after ten minutes, and twice as late with each answer that is the same, up to an
        hour: each question starts a service of its own, whose lines in the journal wear out the card.
        """
        now = time.monotonic()
        if now - self._clock_at >= CLOCK_SECONDS:
            self._clock_at = now
            known = _kernel_clock()
            if known is None and _TIMESYNC_FILE.exists():
                known = True
            if known is None and now - self._clock_asked_at >= self._clock_question_seconds:
                self._clock_asked_at, before = now, self._clock_answer
                self._clock_answer = _systemd_clock()
                longer = min(2 * self._clock_question_seconds, LONGEST_CLOCK_QUESTION_SECONDS)
                self._clock_question_seconds = longer if self._clock_answer == before else CLOCK_QUESTION_SECONDS
            self._clock = self._clock_answer if known is None else known
        return self._clock

    def board_model(self) -> str | None:
        """Return the name of the board, such as "Raspberry Pi 4 Model B Rev 1.4"."""
        for path in (self._proc / "device-tree/model", self._sys / "class/dmi/id/product_name"):
            with contextlib.suppress(OSError):
                text = path.read_bytes().decode("utf-8", "replace").strip("\0 \n")
                if text:
                    return text[:200]
        return None

    def board_serial(self) -> str | None:
        """Return the serial number that a Raspberry Pi and its like carry in their device tree."""
        with contextlib.suppress(OSError):
            text = (self._proc / "device-tree/serial-number").read_bytes().decode("ascii", "replace")
            return text.strip("\0 \n")[:200] or None
        return None


CLOCK_SECONDS, CLOCK_QUESTION_SECONDS, LONGEST_CLOCK_QUESTION_SECONDS = 60.0, 600.0, 3_600.0
_TIMESYNC_FILE = Path("/run/systemd/timesync/synchronized")


def _systemd_clock() -> bool | None:
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return {b"yes": True, b"no": False}.get(done.stdout.strip())


def _kernel_clock() -> bool | None:
    """Ask adjtimex(2); the same bit that timedatectl shows.

    Where system calls are filtered, as in our unit, that is not allowed: then ctypes is not loaded for it.
    """
    try:
        if procfs.filters_calls():
            return None
        import ctypes

        library = ctypes.CDLL(None, use_errno=True)
        # struct timex is 208 bytes on 64-bit and 128 on 32-bit Linux; modes = 0 only reads.
        buffer = ctypes.create_string_buffer(256)
        state = library.adjtimex(buffer)
    except (ImportError, OSError, AttributeError, MemoryError):  # MemoryError: where no memory may be made executable
        return None
    time_error = 5
    return None if state < 0 else state != time_error


def _temperature_file(sys: Path) -> Path | None:
    zones: dict[str, Path] = {}
    for zone in sorted((sys / "class/thermal").glob("thermal_zone*")):
        with contextlib.suppress(OSError):
            zones.setdefault((zone / "type").read_text(encoding="ascii").strip(), zone / "temp")
    for name in _PROCESSOR_ZONES:
        if name in zones:
            return zones[name]
    if zones:
        return next(iter(zones.values()))
    inputs = sorted((sys / "class/hwmon").glob("hwmon*/temp1_input"))
    return inputs[0] if inputs else None


def _under_voltage_alarm(sys: Path) -> Path | None:
    for name in sorted((sys / "class/hwmon").glob("hwmon*/name")):
        with contextlib.suppress(OSError):
            alarm = name.with_name("in0_lcrit_alarm")
            if name.read_text(encoding="ascii").strip() == "rpi_volt" and alarm.exists():
                return alarm
    return None


def agent_use() -> AgentUse:
    """Return what this process costs."""
    own = procfs.stat(os.getpid())
    usage = os.times()
    return AgentUse(
        rss_bytes=own.rss_bytes if own else 0,
        cpu_seconds=usage.user + usage.system,
        threads=len(os.listdir("/proc/self/task")),  # noqa: PTH208  # a count, of a folder that pathlib reads more slowly
        file_descriptors=len(os.listdir("/proc/self/fd")) - 1,  # noqa: PTH208  # less the one that lists them
    )


def tree_of(pids: list[int], before: tuple[float, float] | None = None) -> ProcessTree | None:
    """Sum up processes.

    Args:
        pids: the processes.
        before: (monotonic time, CPU seconds) of the reading before, for a percentage.
    """
    stats = [found for pid in pids if (found := procfs.stat(pid)) is not None and not found.defunct]
    if not stats:
        return None
    cpu = sum(found.cpu_seconds for found in stats)
    percent = None
    if before is not None and (span := time.monotonic() - before[0]) > 0:
        percent = max(0.0, 100 * (cpu - before[1]) / span)
    return ProcessTree(len(stats), sum(found.rss_bytes for found in stats), cpu, percent)
