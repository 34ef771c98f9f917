"""A task in a fork of the warm process is what a new process would have been, to the last byte and bit of status."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def threads_of(process_id: int) -> int:
    return sum(1 for _ in Path(f"/proc/{process_id}/task").iterdir())


ENDS = [
    ("exit", "0"),
    ("exit", "1"),
    ("exit", "255"),
    ("exit", "-1"),
    ("exit", "256"),
    ("text",),
    ("none",),
    ("raise",),
    ("interrupt",),
    ("at-once",),
    ("signal", str(signal.SIGTERM.value)),
    ("signal", str(signal.SIGKILL.value)),
    ("signal", str(signal.SIGSEGV.value)),
    ("signal", str(signal.SIGHUP.value)),
    ("signal", str(signal.SIGUSR1.value)),
    ("abort",),
    ("memory",),
    ("exit-functions",),
    ("unknown",),
]


def test_every_kind_of_end_is_the_same(warm: Any) -> None:
    for number, arguments in enumerate(ENDS):
        cold, forked = warm.run_cold(*arguments), warm.run(*arguments)
        assert (forked.returncode, forked.stdout, forked.stderr) == (cold.returncode, cold.stdout, cold.stderr), (
            arguments
        )
        assert warm.warm_tasks() == number + 1, "it did not run warm"
    assert warm.fallbacks() == []


@pytest.mark.parametrize("flags", ["", "-Iu", "-OO"])
def test_the_process_is_the_same_in_all_that_a_program_can_see(make_warm: Callable[..., Any], flags: str) -> None:
    warm = make_warm(flags=flags)

    def prepare() -> None:
        os.umask(0o027)
        os.nice(3)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    folder = warm.folder / "elsewhere"
    folder.mkdir()
    environment = warm.environment | {"ADDED": "a=b c", "EMPTY": "", "TZ": "Asia/Kathmandu"}
    options: dict[str, Any] = {"cwd": folder, "env": environment, "preexec_fn": prepare}
    cold, forked = warm.run_cold("facts", "x y", **options), warm.run("facts", "x y", **options)
    assert warm.warm_tasks() == 1
    expected, found = (json.loads(run.stdout.splitlines()[-1]) for run in (cold, forked))
    expected["environment"]["PATH"] = environment["PATH"]  # the cold run had our folder taken out
    assert found == expected


def test_input_reaches_the_task(warm: Any) -> None:
    process = warm.start("input", stdin=subprocess.PIPE)
    out, _ = process.communicate("from the terminal", timeout=30)
    assert out.splitlines()[-1] == "FROM THE TERMINAL"
    assert warm.warm_tasks() == 1


def test_output_that_nobody_reads_ends_it_the_same_way(warm: Any) -> None:
    codes = []
    for run in (warm.run_cold, warm.run):
        read, write = os.pipe()
        os.close(read)
        codes.append(run("none", stdout=write).returncode)
        os.close(write)
    assert codes[0] == codes[1] == 120
    assert warm.warm_tasks() == 1


def test_a_task_that_traps_sigterm_gets_it_and_ends_its_own_way(warm: Any) -> None:
    process = warm.start("traps")
    assert process.stdout.readline() == "to standard output\n"
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (3, "asked to end\n")
    assert warm.warm_tasks() == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2])
def test_a_signal_to_the_launcher_ends_both_by_that_signal(warm: Any, number: signal.Signals) -> None:
    process = warm.start("waits", "60")
    process.stdout.readline()
    task = int(process.stdout.readline())
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == -number
    assert not Path(f"/proc/{task}").exists()


def test_a_grandchild_that_lives_on_does_not_hold_the_task(warm: Any) -> None:
    process = warm.start("grandchild", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.wait(2.5) == 4


class TestWithTorch:
    """With everything that a warm process holds in a car."""

    @pytest.fixture
    def heavy(self, make_warm: Callable[..., Any]) -> Any:
        return make_warm(heavy=True, modules=("pandas",))

    def test_one_thread_fresh_random_numbers_and_the_same_arithmetic(self, heavy: Any) -> None:
        server = heavy.server.process_ids()[0]
        assert threads_of(server) == 1
        draws = [heavy.run("random").stdout.splitlines()[-1].split() for _ in range(3)]
        assert all(len({draw[index] for draw in draws}) == 3 for index in range(4)), draws
        cold, forked = heavy.run_cold("numbers"), heavy.run("numbers")
        assert (forked.returncode, forked.stdout) == (cold.returncode, cold.stdout)
        assert threads_of(server) == 1
        assert heavy.warm_tasks() == 4
        loaded = json.loads(
            heavy.run("loaded", "torch", "pandas", "grpc", "fleven", "sqlalchemy").stdout.splitlines()[-1]
        )
        assert loaded == ["torch", "pandas", "grpc"]
        memory = heavy.server.status()["memory_bytes"]
        assert 50 << 20 < memory < 320 << 20
