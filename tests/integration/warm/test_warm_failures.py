"""The warm process is never in the way: whatever happens to it, the task runs, once."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from other_users import others_can_run_this_python
from waiting import wait_for

from fleven_agent.warm.settings import Fallback, WarmReason, WarmState

Make = Callable[..., Any]


def started(warm: Any, *arguments: str, **options: Any) -> tuple[subprocess.Popen[str], int]:
    """Start a task that says its process id, and return both once it runs."""
    process = warm.start(*arguments, **options)
    process.stdout.readline()
    return process, int(process.stdout.readline())


def test_without_a_warm_process_the_task_starts_cold_and_asks_for_warmth(make_warm: Make) -> None:
    warm = make_warm(start=False)
    assert warm.run("exit", "4").returncode == 4
    assert warm.fallbacks() == [Fallback.ABSENT]
    wait_for(lambda: warm.tick()["state"] == WarmState.READY)
    status = warm.tick()
    assert (status["tasks_cold"], status["last_cold_reason"]) == (1, Fallback.ABSENT)
    assert warm.run("exit", "4").returncode == 4
    assert warm.warm_tasks() == 1


def test_the_warm_process_is_killed_while_idle(warm: Any) -> None:
    os.kill(warm.server.process_ids()[0], signal.SIGKILL)
    assert warm.run("exit", "4").returncode == 4
    assert warm.fallbacks() == [Fallback.ABSENT]
    status = warm.tick()
    assert (status["state"], status["reason"], status["crashes"]) == (WarmState.BACKOFF, WarmReason.CRASHED, 1)
    wait_for(lambda: warm.tick()["state"] == WarmState.READY)  # it comes back by itself


def test_the_warm_process_is_killed_mid_task_and_the_task_ends_its_own_way(warm: Any) -> None:
    process, task = started(warm, "waits", "1")
    os.kill(warm.server.process_ids()[0], signal.SIGKILL)
    time.sleep(0.2)
    assert psutil.pid_exists(task)
    assert process.wait(20) == 5
    assert warm.fallbacks() == []


def test_the_warm_process_and_then_its_task_are_killed(warm: Any) -> None:
    process, task = started(warm, "waits", "60")
    os.kill(warm.server.process_ids()[0], signal.SIGKILL)
    os.kill(task, signal.SIGKILL)
    assert process.wait(20) == 1
    assert "exit status is unknown" in process.stderr.read()


def test_the_warm_process_is_asked_to_stop_mid_task(warm: Any) -> None:
    process, _ = started(warm, "waits", "1")
    warm.server.stop()
    assert process.wait(20) == 5


def test_a_killed_launcher_takes_its_task_along(warm: Any) -> None:
    process, task = started(warm, "waits", "60")
    process.kill()
    process.wait(20)
    wait_for(lambda: not psutil.pid_exists(task), 5)


def test_a_killed_launcher_takes_its_task_along_even_without_the_warm_process(warm: Any) -> None:
    process, task = started(warm, "waits", "60")
    os.kill(warm.server.process_ids()[0], signal.SIGSTOP)
    process.kill()
    process.wait(20)
    wait_for(lambda: psutil.Process(task).status() == psutil.STATUS_ZOMBIE, 5)
    os.kill(warm.server.process_ids()[0], signal.SIGCONT)


def test_a_stopped_warm_process_delays_a_task_and_never_runs_it_twice(warm: Any, tmp_path: Path) -> None:
    launcher = warm.folder / "state" / "warm" / "bin" / "flwr-clientapp"
    shorter = "\nimport fleven_agent.warm.launcher as launcher\nlauncher.READY_SECONDS = 1.0\nmain("
    launcher.write_text(launcher.read_text().replace("\nmain(", shorter))
    server = warm.server.process_ids()[0]
    os.kill(server, signal.SIGSTOP)
    # The pipes of a run would stay open as long as they lie in the stopped process's queue.
    process = warm.start("notes", str(tmp_path / "notes"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.wait(20) == 0
    os.kill(server, signal.SIGCONT)
    assert warm.fallbacks() == [Fallback.TIMEOUT]
    assert warm.run("exit", "0").returncode == 0  # comes after the first in the warm process's queue
    assert (tmp_path / "notes").read_text() == "ran\n"


@pytest.mark.parametrize(
    "change", [{"OMP_NUM_THREADS": "7"}, {"FLWR_HOME": "/elsewhere"}, {"PYTHONOPTIMIZE": "1"}], ids=str
)
def test_an_environment_that_matters_at_start_is_not_forced_on_a_fork(warm: Any, change: dict[str, str]) -> None:
    run = warm.run("facts", env=warm.environment | change)
    assert change.items() <= json.loads(run.stdout.splitlines()[-1])["environment"].items()
    assert warm.fallbacks() == [Fallback.ENVIRONMENT]
    assert warm.warm_tasks() == 0


def test_fewer_processors_start_cold(warm: Any) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor")
    run = warm.run("facts", preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}))
    assert len(json.loads(run.stdout.splitlines()[-1])["processors"]) == 1
    assert warm.fallbacks() == [Fallback.ENVIRONMENT]


def test_a_folder_that_is_gone_is_the_tasks_own_matter(warm: Any) -> None:
    """No folder, no request: it starts cold, where Python deals with it."""
    folder = warm.folder / "gone"
    folder.mkdir()
    code = f"import os, subprocess; os.chdir({str(folder)!r}); os.rmdir({str(folder)!r}); "
    code += "print(subprocess.run(['flwr-clientapp', 'exit', '6'], capture_output=True).returncode)"
    run = subprocess.run([sys.executable, "-c", code], env=warm.environment, capture_output=True, text=True)
    assert run.stdout == "6\n"
    assert warm.fallbacks() == [Fallback.ERROR]


def test_a_folder_that_may_not_be_entered_after_the_fork_starts_cold(warm: Any) -> None:
    """The request names a folder that vanished before the fork could enter it: the fork fails and nothing is lost."""
    from fleven_agent.warm import launcher

    folder = warm.folder / "soon-gone"
    folder.mkdir()
    here = Path.cwd()
    os.chdir(folder)
    try:
        body = launcher.request(warm.program, sys.argv[1:])
    finally:
        os.chdir(here)
    folder.rmdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(warm.folder / "run" / "warm" / "task.sock"))
        read, write = os.pipe()
        socket.send_fds(connection, [_with_environment(body, warm.environment)], [0, 1, 2, read])
        assert connection.recv(64).decode() == f"refused {Fallback.SETUP.value}\n"
        os.close(read)
        os.close(write)


def _with_environment(message: bytes, environment: dict[str, str]) -> bytes:
    head = message[4:].split(b"\0")[:9]
    head[8] = b"0"
    body = b"\0".join([*head, *(f"{key}={value}".encode() for key, value in environment.items())])
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    "garbage", [b"", b"\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x05hello", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_garbage_on_the_socket_harms_nobody(warm: Any, garbage: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(warm.folder / "run" / "warm" / "task.sock"))
        connection.sendall(garbage)
    assert warm.run("exit", "4").returncode == 4
    assert warm.warm_tasks() == 1


def test_a_launcher_that_dies_before_go_leaves_no_task(warm: Any, tmp_path: Path) -> None:
    """The fork waits for the word; without it, it never begins."""
    from fleven_agent.warm import launcher

    body = _with_environment(launcher.request(warm.program, sys.argv[1:]), warm.environment)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(warm.folder / "run" / "warm" / "task.sock"))
        read, write = os.pipe()
        socket.send_fds(connection, [body], [0, 1, 2, read])
        data, descriptors, _, _ = socket.recv_fds(connection, 64, 1)
        task = int(data.split()[1])
        for descriptor in (*descriptors, read):
            os.close(descriptor)
        assert psutil.pid_exists(task)
    wait_for(lambda: not psutil.pid_exists(task), 5)
    os.close(write)


def test_a_socket_of_another_user_is_not_trusted(make_warm: Make) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    if not others_can_run_this_python():
        pytest.skip(f"only root can run {Path(sys.executable).resolve()}")
    warm = make_warm(start=False)
    folder = warm.folder / "run" / "warm"
    for path in (folder, *list(folder.parents)[:3]):
        path.chmod(0o755)
    folder.chmod(0o777)
    code = "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('task.sock'); s.listen(1); print(flush=True)"
    code += "; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=folder, user=65534, stdout=subprocess.PIPE) as foreign:
        assert foreign.stdout is not None
        foreign.stdout.readline()
        assert warm.run("exit", "4").returncode == 4
        foreign.kill()
    assert warm.fallbacks() == [Fallback.FOREIGN]


def test_a_module_that_keeps_a_thread_is_left_out(
    make_warm: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "keeps_a_thread.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()\n"
    )
    warm = make_warm(start=False, modules=("keeps_a_thread", "wave"))
    warm.environment["PYTHONPATH"] = warm.server._environment["PYTHONPATH"] = str(tmp_path)
    wait_for(lambda: warm.tick()["state"] == WarmState.READY)
    content = json.loads((warm.folder / "state" / "warm" / "modules.json").read_text())
    assert content["left_out"]["keeps_a_thread"] == "keeps a thread"
    loaded = warm.run("loaded", "keeps_a_thread", "wave").stdout.splitlines()[-1]
    assert json.loads(loaded) == ["wave"]
    assert warm.warm_tasks() == 1


def test_what_a_task_imported_is_there_for_the_next(warm: Any) -> None:
    assert warm.run("import", "wave", "sqlite3").returncode == 0
    wait_for(lambda: "sqlite3" in (warm.folder / "state" / "warm" / "modules.json").read_text())
    wait_for(lambda: json.loads(warm.run("loaded", "wave", "sqlite3").stdout.splitlines()[-1]) == ["wave", "sqlite3"])
    assert warm.fallbacks() == []


def test_a_failed_task_teaches_nothing(warm: Any) -> None:
    assert warm.run("import", "wave", "no_such_module").returncode == 1
    assert json.loads(warm.run("loaded", "wave").stdout.splitlines()[-1]) == []


def test_two_versions_of_an_app_in_turn(warm: Any) -> None:
    """Each task runs the code of its own bundle, whatever ran before it."""
    folders = []
    for name in ("first", "second"):
        package = warm.folder / "flwr" / "apps" / name / "fleven" / "app"
        package.mkdir(parents=True)
        (package.parent / "__init__.py").write_text("")
        (package / "__init__.py").write_text("")
        (package / "version.py").write_text(f"NAME = {name!r}\n")
        folders.append(str(package.parent.parent))
    for folder in folders * 3:
        last = warm.run("imports", folder).stdout.splitlines()[-1]
        assert last == f"{Path(folder).name} {folder}/fleven/__init__.py"
    assert warm.warm_tasks() == 6
    assert "fleven" not in (warm.folder / "state" / "warm" / "modules.json").read_text()


def test_it_leaves_when_nothing_comes_and_returns_with_the_next_task(make_warm: Make) -> None:
    warm = make_warm(idle_seconds=0.5)
    wait_for(lambda: warm.tick()["state"] == WarmState.ABSENT)
    assert warm.tick()["reason"] == WarmReason.IDLE
    assert warm.server.process_ids() == []
    assert warm.run("exit", "0").returncode == 0
    wait_for(lambda: warm.tick()["state"] == WarmState.READY)


def test_it_leaves_and_takes_nothing_while_memory_is_short(make_warm: Make) -> None:
    warm = make_warm(start=False, minimum_available_bytes=1 << 50)
    assert warm.run("exit", "0").returncode == 0
    status = warm.tick()
    assert (status["state"], status["reason"]) == (WarmState.ABSENT, WarmReason.MEMORY_PRESSURE)
    assert warm.server.process_ids() == []


def test_it_ends_when_the_agent_is_gone(make_warm: Make, tmp_path: Path) -> None:
    warm = make_warm(start=False)
    code = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from fleven_agent.warm.manager import WarmServer, WarmSettings
        from fleven_agent.warm.settings import WarmMode
        server = WarmServer(WarmSettings(mode=WarmMode.ON), state_directory=Path({str(warm.folder / "state")!r}),
                            runtime_directory=Path({str(warm.folder / "run")!r}), total_memory_bytes=1 << 32)
        server.environment({warm.environment!r})
        while server.status()["state"] != "ready":
            server.tick(wanted=True)
            time.sleep(0.02)
        print(server.process_ids()[0], flush=True)
        time.sleep(60)
        """
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        server = int(agent.stdout.readline())
        agent.kill()
    wait_for(lambda: not psutil.pid_exists(server), 10)


def test_many_tasks_leave_nothing_behind(warm: Any, tmp_path: Path) -> None:
    """The long form of this is benchmarks/warm_endurance.py."""
    server = psutil.Process(warm.server.process_ids()[0])
    temporary = warm.environment | {"TMPDIR": str(tmp_path)}
    before = (server.num_fds(), server.num_threads())
    for number in range(30):
        ends = (("exit", "3"), ("signal", "9"), ("raise",), ("memory",))
        warm.run(*ends[number % len(ends)], env=temporary)
    wait_for(lambda: not server.children() and (server.num_fds(), server.num_threads()) == before)
    assert list(tmp_path.iterdir()) == []
    # The status is written once more after the last task: for a moment the file that becomes it lies beside it.
    folder = warm.folder / "run" / "warm"
    wait_for(lambda: sorted(path.name for path in folder.iterdir()) == ["status.json", "task.sock"])
    assert warm.warm_tasks() == 30
    assert warm.fallbacks() == []


def test_a_runtime_folder_may_be_deeper_than_a_socket_address_is_long(make_warm: Any) -> None:
    warm = make_warm(runtime="/".join(["a-folder-with-a-long-name"] * 6))
    assert warm.run("exit", "4").returncode == 4
    assert warm.warm_tasks() == 1
