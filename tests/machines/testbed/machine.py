"""One machine: systemd as PID 1 over an overlay, with its own network namespace and control groups.

It shares this host's kernel, clock and page cache: what was written but not fsynced survives its power cut, and nothing
in it can set the clock. Imports nothing of fleven.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from . import cgroups, compiled
from .network import Switch
from .shell import BedError, run, wait_for

REBOOT_STATUS = 133  # what systemd-nspawn --keep-unit ends with when the machine asked for a reboot
# nspawn mounts v1 controllers read-only, and systemd would then see none. They are the machine's own group, so make
# them writable before systemd looks. With cgroup v2 the loop finds nothing.
INIT = (
    "for d in /sys/fs/cgroup/*/; do d=${d%/}; case ${d##*/} in cpuset|freezer|systemd|unified) ;; "
    '*) mount -o remount,bind,rw "$d" 2>/dev/null;; esac; done; exec /lib/systemd/systemd'
)
# With --read-only nspawn makes what is bound read-only as well.
WRITABLE_VAR = "mount -o remount,bind,rw /var; "
# An own mount namespace: nobody else sees the overlay, and it goes with the machine. The disks of other machines are
# left out of it: one that is held here could not be repaired.
START = (
    'for m in $(findmnt -rno TARGET -t ext4 | grep "^$(dirname "$DISK")/"); '
    'do [ "$m" = "$DISK" ] || umount "$m"; done; '
    'set -e; for g in $GROUPS_OF_MACHINE; do echo 0 >"$g/cgroup.procs"; done; '
    "mkdir -p /run/systemd/nspawn; mount -t tmpfs -o mode=700 tmpfs /run/systemd/nspawn; "
    'mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$DISK/upper,workdir=$DISK/work" "$DISK/root"; exec "$@"'
)


@dataclass
class Result:
    """How a program in a machine ended."""

    exit_code: int
    output: str
    errors: str


class CommandFailedError(AssertionError):
    """A program in a machine ended with another status than 0."""


@dataclass
class Machine:
    """Start it with `start`, use it with `run`, end it with `remove`."""

    name: str
    address: str
    switch: Switch
    folder: Path
    base: Path
    layers: list[Path] = field(default_factory=list)
    bind: list[Path] = field(default_factory=list)
    disk_megabytes: int = 0
    """Size of a disk (ext4) of its own, which can fail; 0: a folder of this host."""
    read_only_root: bool = False
    """At its next start all but /var is read-only."""
    _runner: subprocess.Popen[bytes] | None = None
    _groups: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.disk_megabytes:
            with self.image.open("wb") as file:
                file.truncate(self.disk_megabytes * 1_000_000)
            run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self.image))
            self._mount_disk()
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self.identity = uuid.uuid4().hex

    @property
    def image(self) -> Path:
        """The disk of its own."""
        return self.folder.with_suffix(".img")

    def _mount_disk(self) -> None:
        run("mount", "-o", "loop,errors=remount-ro", str(self.image), str(self.folder))

    def break_disk(self) -> None:
        """Let its file system find an error and turn read-only, as on a card that dies."""
        device = run("findmnt", "-no", "SOURCE", str(self.folder)).strip()
        Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("broken by the test bed")

    def repair_disk(self) -> None:
        """Check the disk of a machine that is off, as the boot of a real one does."""
        device = Path(run("findmnt", "-no", "SOURCE", str(self.folder)).strip()).name
        run("umount", str(self.folder))
        wait_for("the broken file system is gone", lambda: not Path(f"/sys/fs/ext4/{device}").exists(), 20)
        run("e2fsck", "-fy", str(self.image), check=False)  # 1: errors were mended
        self._mount_disk()

    # ------------------------------------------------------------------ life

    def start(self, *, wait: bool = True, network: bool = True) -> float:
        """Power on, `network=False` to plug it in later. Returns the seconds until systemd says that it is up."""
        if self._runner is not None and self._runner.poll() is None:
            raise BedError(f"{self.name} is running")
        begin = time.monotonic()
        namespace = self.switch.plug(self.name, self.address)
        if not network:
            self.switch.take_down(self.name)
        etc = self.folder / "upper/etc"
        etc.mkdir(exist_ok=True)
        (etc / "hostname").write_text(f"{self.name}\n")
        compiled.share(self.folder / "upper")
        self._groups = cgroups.make(f"{self.switch.prefix}-m-{self.name}")
        command = ["bash", "-c", START, "-", *self._nspawn(namespace)]
        if not self._groups:
            command = ["systemd-run", "--quiet", "--scope", "--collect", "-p", "Delegate=yes", *command]
        environment = {
            **os.environ,
            "GROUPS_OF_MACHINE": " ".join(map(str, self._groups)),
            "LOWER": ":".join(map(str, [*reversed(self.layers), self.base])),
            "DISK": str(self.folder),
        }
        with (self.folder / "console.log").open("ab") as log:
            self._runner = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        if wait:
            self.wait_until_up()
        return time.monotonic() - begin

    def _nspawn(self, namespace: str) -> list[str]:
        return [
            "systemd-nspawn", "--quiet", f"--directory={self.folder / 'root'}", f"--machine={self.name}",
            f"--hostname={self.name}", f"--uuid={self.identity}", "--register=no", "--keep-unit", "--console=pipe",
            f"--network-namespace-path=/run/netns/{namespace}",
            # bpf: without it IPAddressDeny= and, on cgroup v2, DeviceAllow= would silently do nothing.
            "--capability=CAP_NET_ADMIN,CAP_BPF,CAP_PERFMON", "--system-call-filter=bpf",
            "--kill-signal=SIGRTMIN+3", "--resolv-conf=off", "--timezone=off", "--link-journal=no",
            *(f"--bind-ro={path}:/mnt/{path.name}" for path in self.bind),
            f"--bind={compiled.shared_folder()}:{compiled.SEEN_AS}",
            *(["--read-only", f"--bind={self.folder / 'root/var'}:/var"] if self.read_only_root else []),
            "--", "/bin/sh", "-c", (WRITABLE_VAR if self.read_only_root else "") + INIT,
        ]  # fmt: skip

    def leader(self) -> int | None:
        """The machine's PID 1 as a pid of this host."""
        if self._runner is None or self._runner.poll() is not None:
            return None
        waiting = [self._runner.pid]
        while waiting:
            pid = waiting.pop()
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            except OSError:
                continue
            for line in status.splitlines():
                numbers = line.split()[1:] if line.startswith("NSpid:") else []
                if len(numbers) > 1 and numbers[-1] == "1":
                    return pid
            waiting += map(int, children)
        return None

    def _by_identity(self) -> list[int]:
        """Pids of this host that were started as this machine's PID 1."""
        wanted = f"container_uuid={uuid.UUID(self.identity)}".encode()
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if wanted in environment.read_bytes().split(b"\0"):
                    found.append(int(environment.parent.name))
        return found

    def wait_until_up(self, timeout_seconds: float = 120) -> None:
        """Wait until systemd has finished booting; a failed unit makes it "degraded", which is up as well.

        Raises:
            BedError: it ended or did not come up, with the end of its console.
        """

        def up() -> bool:
            if self._runner is not None and self._runner.poll() not in (None, REBOOT_STATUS):
                raise BedError(f"{self.name} ended while booting: {self.console()[-1500:]}")
            if self.leader() is None:
                return False
            return self.try_run("systemctl", "is-system-running").output.strip() in {"running", "degraded"}

        try:
            wait_for(f"{self.name} booted", up, timeout_seconds, 0.1)
        except TimeoutError as error:
            raise BedError(f"{error}: {self.console()[-1500:]}") from None

    def power_cut(self) -> None:
        """End it at once, as when the ignition takes the power away."""
        # By its identity as well: its PID 1 outlives a systemd-nspawn that somebody killed.
        for pid in {self.leader(), *self._by_identity()} - {None}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._gone(20)

    def power_off(self) -> None:
        """Shut down in order."""
        self.try_run("systemctl", "poweroff")
        self._gone(200)

    def power_cycle(self, off_seconds: float = 0) -> None:
        self.power_cut()
        time.sleep(off_seconds)
        self.start()

    def reboot(self) -> None:
        """`reboot` inside, and wait until it is back."""
        self.try_run("systemctl", "--no-block", "reboot")
        self._gone(200)
        self.start()

    def freeze(self) -> None:
        """The whole machine hangs."""
        self._freezer(frozen=True)

    def thaw(self) -> None:
        self._freezer(frozen=False)

    def _freezer(self, *, frozen: bool) -> None:
        pid = self.leader()
        if pid is None:
            raise BedError(f"{self.name} is not running")
        file, freeze, thaw = cgroups.freezer(pid, f"{self.switch.prefix}-m-{self.name}", self.members)
        if file.parent not in self._groups:
            self._groups.append(file.parent)  # goes with the machine
        file.write_text(freeze if frozen else thaw)

    def members(self) -> list[int]:
        """Pids of this host of all its processes."""
        own = Path(f"/proc/{self.leader()}/ns/pid").stat().st_ino
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "ns/pid").stat().st_ino == own:
                    found.append(int(process.name))
        return found

    def limit_memory(self, megabytes: int | None) -> None:
        """Let all its processes and their files in memory have no more than this; None: no limit.

        Raises:
            BedError: no controller of cgroups counts this machine's memory.
        """
        for group in self._groups:
            for name, unlimited in (("memory.limit_in_bytes", "-1"), ("memory.max", "max")):
                if (group / name).exists():
                    (group / name).write_text(unlimited if megabytes is None else str(megabytes * 1_000_000))
                    return
        raise BedError(f"the memory of {self.name} is not counted here")

    def memory_kills(self) -> int:
        """How many of its processes the kernel has ended for want of memory since its start."""
        if not self._groups:
            raise BedError(f"the memory of {self.name} is not counted here")
        found = 0
        for group in self._groups:
            # Version 1 counts in the group of the process that was ended, version 2 in all groups above as well.
            files = [group / "memory.events", *group.rglob("memory.oom_control")]
            for file in (file for file in files if file.exists()):
                lines = dict(line.split() for line in file.read_text().splitlines())
                found += int(lines.get("oom_kill", 0))
        return found

    def _gone(self, timeout_seconds: float) -> None:
        if self._runner is not None:
            try:
                self._runner.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                raise BedError(f"{self.name} does not end: {self.console()[-800:]}") from None
        cgroups.remove(self._groups)

    def remove(self) -> None:
        """Stop it hard and delete its disk."""
        with contextlib.suppress(BedError, OSError):
            self.thaw()
        self.power_cut()
        self.switch.unplug(self.name)
        if self.disk_megabytes:
            run("umount", str(self.folder), check=False)
            self.image.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------------- use

    def try_run(
        self, *command: str, text_input: str | None = None, timeout_seconds: float = 300, user: str | None = None
    ) -> Result:
        """Run a program in the machine, as root unless `user` is named. A machine that is off answers with 255."""
        pid = self.leader()
        if pid is None:
            return Result(255, "", f"{self.name} is off")
        # In the machine's namespaces, and with no capability that its own PID 1 does not have: with this host's it
        # could set the host's clock.
        status = Path(f"/proc/{pid}/status").read_text()
        bounding = int(next(line for line in status.splitlines() if line.startswith("CapBnd")).split()[1], 16)
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
        dropped = ",".join(f"-cap_{number}" for number in range(last + 1) if not bounding >> number & 1)
        full = [
            "nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--",
            "/usr/bin/setpriv", *([f"--bounding-set={dropped}", f"--inh-caps={dropped}"] if dropped else []),
            *(["--reuid", user, "--regid", user, "--init-groups"] if user else []),
            "/usr/bin/env", "-i", "-C", "/", "HOME=/root", "USER=root", "LANG=C.UTF-8", "TERM=dumb",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive",
            "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0", *command,
        ]  # fmt: skip
        try:
            answer = subprocess.run(
                full, input=text_input, stdin=None if text_input is not None else subprocess.DEVNULL,
                capture_output=True, text=True, errors="replace", timeout=timeout_seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as expired:
            return Result(124, str(expired.stdout or ""), f"not done within {timeout_seconds:.0f} s")
        return Result(answer.returncode, answer.stdout, answer.stderr)

    def run(self, *command: str, text_input: str | None = None, timeout_seconds: float = 300) -> str:
        """Run a program in the machine and return its output.

        Raises:
            CommandFailedError: it ended with another status than 0, with what it said.
        """
        result = self.try_run(*command, text_input=text_input, timeout_seconds=timeout_seconds)
        if result.exit_code:
            said = (result.output + result.errors)[-4000:]
            raise CommandFailedError(f"{self.name}# {shlex.join(command)}\nexit {result.exit_code}\n{said}")
        return result.output

    def shell(self, script: str, timeout_seconds: float = 300) -> str:
        """Run lines of a terminal, as a README gives them."""
        return self.run("bash", "-euc", script, timeout_seconds=timeout_seconds)

    def write(self, path: str, text: str) -> None:
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1"', "-", path, text_input=text)

    def show(self, unit: str, property_name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--property", property_name, "--value", unit).strip()

    def processes(self, pattern: str) -> list[int]:
        """Pids, inside the machine, of the processes whose command line matches."""
        return [int(pid) for pid in self.try_run("pgrep", "-f", "--", pattern).output.split()]

    def console(self) -> str:
        log = self.folder / "console.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def journal(self, *arguments: str) -> str:
        """The journal, of a machine that is off as well."""
        if self.leader() is not None:
            return self.try_run("journalctl", "--no-pager", "--output=short-precise", *arguments).output
        journals = self.folder / "upper/var/log/journal"
        answer = subprocess.run(
            ["journalctl", "--no-pager", "--directory", str(journals), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        return answer.stdout
