"""A warm process and its launcher as the agent runs them, with a real executable in place of Flower's program."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from waiting import wait_for

from fleven_agent.warm.manager import WarmServer, WarmSettings
from fleven_agent.warm.settings import WarmMode

HERE = Path(__file__).parent
GIBIBYTE = 1 << 30
# With these left out the warm process is up in a tenth of a second; what they change is tested with the real ones.
HEAVY = {"flwr": "left out by the test", "torch": "left out by the test", "numpy": "left out by the test"}


@dataclass
class Warm:
    """A warm process, and a program ``flwr-clientapp`` behind its launcher."""

    folder: Path
    server: WarmServer
    environment: dict[str, str]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def program(self) -> str:
        """The program that runs cold."""
        return str(self.folder / "cold" / "flwr-clientapp")

    def tick(self) -> dict[str, str | int | float | bool | None]:
        """Let the manager work and return its status."""
        self.server.tick(wanted=True)
        return self.server.status()

    def start(self, *arguments: str, **options: object) -> subprocess.Popen[str]:
        """Start a task as the executor does: by name, from PATH."""
        environment = options.pop("env", self.environment)
        process = subprocess.Popen(
            ["flwr-clientapp", *arguments],
            env=environment,
            cwd=options.pop("cwd", self.folder),
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.PIPE),
            text=True,
            **options,
        )  # type: ignore[call-overload]
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End the tasks that a test has left and the warm process."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait(20)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self.server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a task to its end."""
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(list(arguments), process.returncode, out, err)

    def run_cold(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run the same program as Flower would without us."""
        environment = dict(options.pop("env", self.environment))
        environment["PATH"] = environment["PATH"].partition(os.pathsep)[2]
        return self.run(*arguments, env=environment, **options)

    def warm_tasks(self) -> int:
        """Return how many tasks the warm process has run."""
        return int(self.server.status()["tasks_warm"] or 0)

    def fallbacks(self) -> list[str]:
        """Return the reasons that launchers noted, oldest first."""
        path = self.folder / "run" / "warm" / "fallbacks"
        return [line.split(" ", 1)[1] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="session")
def scenario_program() -> str:
    """Source of a program with Flower's name that ends in the way its first argument asks for."""
    return (HERE / "scenarios.py").read_text(encoding="utf-8")


@pytest.fixture
def make_warm(tmp_path_factory: pytest.TempPathFactory, scenario_program: str) -> Iterator[Callable[..., Warm]]:
    """Return a function that starts a warm process, ready for tasks; keyword arguments go to its settings."""
    made: list[Warm] = []

    def make(
        *, heavy: bool = False, start: bool = True, flags: str = "", runtime: str = "run", **settings: object
    ) -> Warm:
        folder = tmp_path_factory.mktemp("warm")
        program = folder / "cold" / "flwr-clientapp"
        program.parent.mkdir()
        program.write_text(f"#!{sys.executable} {flags}\n{scenario_program}", encoding="utf-8")
        program.chmod(0o755)
        if not heavy:
            (folder / "state" / "warm").mkdir(parents=True)
            content = {"schema_version": 1, "python": sys.version, "modules": [], "left_out": HEAVY}
            (folder / "state" / "warm" / "modules.json").write_text(json.dumps(content))
        server = WarmServer(
            WarmSettings(mode=WarmMode.ON, **settings),  # type: ignore[arg-type]
            state_directory=folder / "state",
            runtime_directory=folder / runtime,
            total_memory_bytes=4 * GIBIBYTE,
        )
        base = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "FLEVEN_", "PYTHON"))}
        base |= {"FLWR_HOME": str(folder / "flwr"), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
        warm = Warm(folder, server, server.environment(base))
        made.append(warm)
        if start:
            wait_for(lambda: warm.tick()["state"] == "ready", 60)
        return warm

    yield make
    for warm in made:
        warm.close()


@pytest.fixture
def warm(make_warm: Callable[..., Warm]) -> Warm:
    """A light warm process, ready for tasks."""
    return make_warm()
