"""The next task's process waits as a fork, becomes the task that it is told, and goes when it is not needed."""

import subprocess
import sys

STEPS = """
import os, signal, socket, sys
from fleven_agent.common.cell.request import Request
from fleven_agent.warm.waiting import Waiting, wait

def forked():
    note_read, note_write = os.pipe()
    here, there = socket.socketpair()
    process_id = os.fork()
    if process_id == 0:
        here.close()
        os.close(note_read)
        task = wait(there, 3)
        if task is None:
            os._exit(5)
        request, descriptors = task
        os.write(descriptors[1], f"{request.program} {request.environment['A']} {len(descriptors)}\\n".encode())
        os._exit(6)
    there.close()
    os.close(note_write)
    return Waiting(process_id, here, note_read)

def status_of(waiting):
    return os.waitstatus_to_exitcode(os.waitpid(waiting.process_id, 0)[1])

def taken(request):
    waiting = forked()
    waiting.hand_over(request, [0, silent, silent])
    return status_of(waiting) == 6

silent = os.open(os.devnull, os.O_WRONLY)
request = Request("/a/program", "/", 0, (), (), (0,), 0, ((1, 2),), ("x",), {"A": "b" * 100_000})
used = forked()
used.hand_over(request, [0, 1, 2])
print(status_of(used), flush=True)

small = Request("/a", "/", 0, (), (), (0,), 0, (), (), {"A": "b"})
print(sum(taken(small) for _ in range(50)), flush=True)

given_up = forked()
given_up.end()
try:
    os.waitpid(given_up.process_id, 0)
except ChildProcessError:
    print("gone", flush=True)

killed = forked()
os.kill(killed.process_id, signal.SIGKILL)
print(status_of(killed), flush=True)
try:
    killed.hand_over(request, [0, 1, 2])
except OSError:
    killed.end()
    print("refused", flush=True)

orphan = forked()
orphan._connection.close()
print(status_of(orphan), flush=True)
"""


def test_it_becomes_the_task_that_it_is_told_and_goes_when_it_is_not_needed() -> None:
    run = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True, timeout=60)
    lines = run.stdout.splitlines()
    assert lines == [f"/a/program {'b' * 100_000} 3", "6", "50", "gone", "-9", "refused", "5"], run.stderr
