"""A task that tries all it can on the machine that runs it, and prints what it could do, as JSON.

Put in the place of Flower's own program and sent into the cell. Imports the standard library only.
"""

# Plain calls of the system, as an attacker would make them.
# ruff: noqa: PTH110, PTH112, PTH116, PTH123, PTH208, S606, SIM115

import ctypes
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

FILES = sys.argv[sys.argv.index("--read") + 1].split(":")
WRITES = sys.argv[sys.argv.index("--write") + 1].split(":")
CONNECTIONS = sys.argv[sys.argv.index("--connect") + 1].split(",")
TRIALS = sys.argv[sys.argv.index("--trials") + 1].split(",")


def outcome(trial):
    try:
        return str(trial())[:200] or "done"
    except BaseException as error:
        return f"refused: {type(error).__name__} {error}"[:200]


def connect(address):
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=2):
        return "connected"


def processes():
    own, seen = os.getuid(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid != own:
                    seen.append(name)
            except OSError:
                pass
    return seen or "none"


def kill_everything_of_others():
    ended = []
    for pid in range(1, 70_000):
        if os.path.exists(f"/proc/self/task/{pid}"):  # its own threads answer to a signal as well
            continue
        try:
            os.kill(pid, 0)
            ended.append(pid)
        except OSError:
            pass
    return ended


def writable_groups():
    found = pathlib.Path("/sys/fs/cgroup").rglob("cgroup.procs")
    return sorted(str(path) for path in found if os.access(path, os.W_OK)) or "none"


def stay():
    """Leave two processes behind that have let go of everything by which one could find them."""
    for number in range(2):
        if os.fork() == 0:
            os.setsid()
            if os.fork() != 0:
                os._exit(0)
            os.closerange(0, 64)
            os.environ.clear()
            os.execve("/bin/sleep", ["sleep", f"86{number}"], {})
    return "left two"


def outlive():
    """Go on whatever becomes of the run, beside two processes that are left behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    stay()
    print(json.dumps({"outlive": "goes on"}), flush=True)
    while True:
        time.sleep(1)


def fork_bomb():
    """Fork as much as there is room for; each fork forks on."""
    made = 0
    for _ in range(10_000):
        try:
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                until = time.monotonic() + 60
                while time.monotonic() < until:
                    try:
                        os.fork()
                    except OSError:
                        time.sleep(0.001)
                os._exit(0)
            made += 1
        except OSError:
            break
    return f"forks {made}"


def fill(folder):
    written = 0
    path = pathlib.Path(folder) / "big"
    while written < 6_000_000_000:
        with open(f"{path}{written}", "wb") as stream:
            for _ in range(64):
                written += stream.write(bytes(1 << 20))
    return f"wrote {written}"


def memory():
    held = []
    while len(held) < 64_000:
        held.append(bytearray(os.urandom(1 << 10) * 1024))
    return f"took {len(held)} MiB"


ALL = {
    "identity": lambda: (os.getuid(), os.getgid()),
    "processes": processes,
    "signal": kill_everything_of_others,
    "trace": lambda: ctypes.CDLL(None, use_errno=True).ptrace(16, os.getppid(), 0, 0) or "traced",
    "parent-memory": lambda: open(f"/proc/{os.getppid()}/mem", "rb").close() or "opened",
    "setuid": lambda: os.setuid(0) or "root",
    "namespace": lambda: subprocess.run(["unshare", "-Ur", "true"], check=True, capture_output=True).returncode,
    "group": writable_groups,
    "stay": stay,
    "outlive": outlive,
    "bomb": fork_bomb,
    "fill-home": lambda: fill(os.environ["HOME"]),
    "fill-kept": lambda: fill(os.environ.get("FLEVEN_CAR_STATE_DIR") or "/var/lib/fleven-models"),
    "fill-tmp": lambda: fill("/tmp"),
    "memory": memory,
    "stop-cell": lambda: os.kill(os.getppid(), signal.SIGSTOP) or "stopped",
    "end-all": lambda: os.kill(-1, signal.SIGKILL) or "ended",
}
found = {}
for path in FILES:
    found[f"read {path}"] = outcome(
        lambda path=path: sorted(os.listdir(path)) if os.path.isdir(path) else open(path, "rb").read(40)
    )
for path in WRITES:
    found[f"write {path}"] = outcome(lambda path=path: open(path, "wb").close() or "written")
for address in CONNECTIONS:
    found[f"connect {address}"] = outcome(lambda address=address: connect(address))
print(json.dumps(found), flush=True)
for name in TRIALS:
    print(json.dumps({name: outcome(ALL[name])}), flush=True)
