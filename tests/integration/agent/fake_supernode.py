"""A fake `flower-supernode`: a real executable that behaves, or misbehaves, as the file `mode` beside it says.

It prints Flower's lines, starts a fake `flower-superexec`, and ends on SIGTERM as Flower does. Test code only.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(sys.argv[0]).resolve().parent


def say(text: str, level: str = "INFO") -> None:
    print(f"\x1b[92m{level} \x1b[0m:      {text}", file=sys.stderr, flush=True)


def superexec() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.1)


def stop(_number: int, _frame: object) -> None:
    say("SuperNode terminated gracefully.")
    os._exit(0)


def idle() -> None:
    """Wait as SuperNode does, with a little CPU time."""
    while True:
        time.sleep(0.2)
        sum(range(20_000))


def task(seconds: float) -> None:
    say("[RUN 18446744073709551615, ROUND 1]")
    say("Receiving: train message (ID: a)")
    say("Received successfully")
    time.sleep(seconds)
    say("[RUN 18446744073709551615, ROUND 1]")
    say("Sending: train message (ID: b)")
    say("Sent successfully")


def main() -> None:
    if Path(sys.argv[0]).name == "flower-superexec":
        superexec()
        return
    mode, *values = (HERE / "mode").read_text(encoding="utf-8").split()
    with (HERE / "starts").open("a", encoding="utf-8") as starts:
        record = {"pid": os.getpid(), "at": time.monotonic(), "argv": sys.argv[1:], "environment": dict(os.environ)}
        starts.write(json.dumps(record) + "\n")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "ignore-term" else stop)
    say("Starting Flower SuperNode")
    if mode == "hang":
        time.sleep(3_600)
    if mode == "crash-at-start":
        say("Exit Code: 302\nUnable to parse the private key file.", "ERROR")
        sys.exit(1)
    if mode == "refused":
        print('\tstatus = StatusCode.UNAUTHENTICATED\n\tdetails = "unknown node"', file=sys.stderr, flush=True)
        sys.exit(0)
    if mode == "slow-start":
        time.sleep(float(values[0]))
    if mode == "unreachable":
        while True:
            say("Connection attempt failed, retrying in 0.20 seconds", "WARNING")
            time.sleep(0.2)
    executor = subprocess.Popen([str(HERE / "flower-superexec"), "--parent-pid", str(os.getpid())])
    say(f"SuperNode ID: {random.getrandbits(63)}")
    if mode == "orphan":
        subprocess.Popen(["sleep", "3600"])
        subprocess.Popen(["sleep", "3601"], start_new_session=True)
    if mode == "flood":
        for number in range(int(values[0])):
            say(f"line {number} {'x' * 200}")
        say("flood is over")
    if mode == "executor-dies":
        time.sleep(float(values[0]))
        executor.kill()
    if mode == "hung":
        time.sleep(3_600)
    if mode == "exit-zero":
        time.sleep(float(values[0]))
        sys.exit(0)
    if mode == "crash-later":
        time.sleep(float(values[0]))
        sys.exit(1)
    if mode == "task":
        task(float(values[0]))
    if mode == "stuck-task":
        task(3_600)
    idle()


main()
