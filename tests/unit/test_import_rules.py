"""Which part may import which: the rules that keep the agent small and the FAB self-contained."""

import subprocess
import sys
from pathlib import Path

import pytest
from module_imports import imported_names, modules_of

HEAVY = {"torch", "pandas", "numpy", "flwr", "pyarrow", "requests", "sqlalchemy", "fastapi", "typer", "rich"}


def top(name: str) -> str:
    return name.split(".", maxsplit=1)[0]


def offenders(repository: Path, folder: str, forbidden: set[str], allowed: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    found = []
    for file in modules_of(repository, folder).values():
        for name in sorted(imported_names(repository, file)):
            hit = any(name == bad or name.startswith(f"{bad}.") for bad in forbidden)
            if hit and not any(name == good or name.startswith(f"{good}.") for good in allowed):
                found.append(f"{file}: {name}")
    return found


def test_the_agent_imports_nothing_of_fleven(repository: Path) -> None:
    assert offenders(repository, "fleven_agent", {"fleven"}) == []


def test_the_app_imports_neither_server_nor_agent(repository: Path) -> None:
    assert offenders(repository, "fleven/app", {"fleven_agent", "fleven.server", "fleven.data", "fleven.demo"}) == []


def test_the_server_imports_only_what_both_share_and_the_protocol_of_the_agent(repository: Path) -> None:
    allowed = {"fleven_agent.common", "fleven_agent.protocol"}
    assert offenders(repository, "fleven/server", {"fleven_agent"}, allowed) == []


def test_the_app_runs_in_a_car_of_version_0_1_0_that_has_no_safetensors(repository: Path) -> None:
    of_the_server = {"server", "server_app.py", "simulation.py"}
    on_cars = [file for file in modules_of(repository, "fleven/app").values() if not of_the_server & set(file.parts)]
    assert Path("fleven/app/client_app.py") in on_cars
    for file in on_cars:
        loaded = imported_names(repository, file)
        assert not {name for name in loaded if top(name) == "safetensors" or name.startswith("fleven.app.server")}, file


@pytest.mark.parametrize("folder", ["fleven/server", "fleven/data"])
def test_only_the_app_imports_torch_and_flower(repository: Path, folder: str) -> None:
    found = offenders(repository, folder, {"torch", "flwr"})
    # The Control API is spoken with Flower's own stubs, at the first call and in one module; the other runs inside
    # Flower's own program, and sets its bounds there.
    allowed = ("fleven/server/flower/control.py: flwr.proto", "fleven/server/flower/superlink_process.py: flwr.")
    assert [line for line in found if not line.startswith(allowed)] == []


def test_no_command_of_the_server_loads_flower() -> None:
    code = "import sys, fleven.server.cli.main, fleven.server.flower.flwr_command; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(loaded.stdout.split()) & {"flwr", "grpc", "torch"} == set()


def test_the_agent_process_loads_no_heavy_module() -> None:
    names = "' '.join({name.split('.')[0] for name in sys.modules})"
    code = f"import sys, fleven_agent.cli.main, fleven_agent.daemon; print({names})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(loaded.stdout.split()) & HEAVY == set()


def test_the_daemon_is_loaded_without_what_only_its_children_need() -> None:
    code = "import sys, fleven_agent.daemon; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(loaded.stdout.split()) & {"pydantic", "tomllib", "ctypes"} == set()


def test_the_agent_runs_without_what_only_its_other_commands_need(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom fleven_agent.cli.main import main\n"
        f"code = main(['run', '--config', {str(tmp_path / 'none.toml')!r}])\nprint(code, *sys.modules)"
    )
    environment = {"FLEVEN_STATE_DIR": str(tmp_path), "FLEVEN_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    exit_code, *loaded = done.stdout.split()
    assert exit_code == "78"
    assert "fleven_agent.daemon" in loaded
    unwanted = {"argparse", "shutil", "bz2", "lzma", "fleven_agent.identity.joining", "fleven_agent.identity.exchange"}
    assert set(loaded) & unwanted == set()
