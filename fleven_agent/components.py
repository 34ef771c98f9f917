"""What one agent is made of, and how its parts are built from the settings. The only wiring module.

Must not import ``config.parser`` or ``protocol.report``: both bring pydantic.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fleven_agent import __version__
from fleven_agent.config.settings import Settings
from fleven_agent.identity.files import IdentityFolder
from fleven_agent.identity.keeper import Keeper
from fleven_agent.identity.model import About
from fleven_agent.models.keeper import ModelKeeper
from fleven_agent.monitoring.machine import Reader
from fleven_agent.monitoring.monitors import Monitors
from fleven_agent.state import AgentState
from fleven_agent.supernode.flower import FlowerLine, Launch, line_for
from fleven_agent.supernode.process import CHILD_OOM_SCORE, end_leftovers
from fleven_agent.supernode.supernode import SuperNode
from fleven_agent.supernode.supervisor import Supervised
from fleven_agent.system import procfs
from fleven_agent.system.clock import since_boot
from fleven_agent.system.log import LOGGER, OutputLog, event
from fleven_agent.system.versions import Versions, collect
from fleven_agent.warm.cell_server import CellServer, default_socket
from fleven_agent.warm.manager import WarmServer, WarmSettings
from fleven_agent.warm.settings import WarmMode


@dataclass(slots=True)
class Components:
    """The parts that the loop, telemetry and the commands share; only the loop's thread changes them."""

    config_file: Path
    configured: Settings
    """As node.toml has them."""
    settings: Settings
    """Those in force: what the server has bound to the car's identity wins."""
    keeper: Keeper
    state_directory: Path
    runtime_directory: Path
    agent_state: AgentState
    output: OutputLog
    monitors: Monitors
    node: SuperNode
    launch: Launch
    models: ModelKeeper
    board_model: str | None
    versions: Versions
    supervised: Supervised = field(default_factory=Supervised)
    state_since_boot: float = field(default_factory=since_boot)
    """When the state began [s since the boot]."""
    boot_id: str = field(default_factory=procfs.boot_id)
    rejected: str = ""
    """The last refusal, until the next registration."""
    broken: str = ""
    """Why the executor was lost, until SuperNode runs again."""
    configuration_problem: str = ""
    """Why the last reload was refused."""


def build(
    config_file: Path, configured: Settings, state_directory: Path, runtime_directory: Path, wake: Callable[[], None]
) -> Components:
    """Build all parts; ``wake`` wakes the loop from any thread."""
    versions, boot_id = collect(), procfs.boot_id()
    board_model = Reader([str(state_directory)]).board_model()
    about = About(boot_id, __version__, versions.flwr, board_model)
    keeper = Keeper(IdentityFolder(state_directory), configured, about, wake)
    settings = keeper.effective
    output = OutputLog(lines_per_second=settings.log.supernode_lines_per_second)
    output.enabled = settings.log.supernode_lines
    monitors = Monitors(settings, state_directory, runtime_directory, wake)
    warm = warm_server(settings, state_directory, runtime_directory)
    flower = line_for(versions.flwr)
    return Components(
        config_file=config_file,
        configured=configured,
        settings=settings,
        keeper=keeper,
        state_directory=state_directory,
        runtime_directory=runtime_directory,
        agent_state=AgentState(state_directory, monitors.reader.board_serial()),
        output=output,
        monitors=monitors,
        node=SuperNode(flower, state_directory, warm, output, wake),
        launch=launch(flower, settings, state_directory, keeper.credentials),
        models=ModelKeeper(state_directory, wake),
        board_model=board_model,
        versions=versions,
        boot_id=boot_id,
    )


def launch(flower: FlowerLine, settings: Settings, state_directory: Path, credentials: str) -> Launch:
    """Return how SuperNode is to be started; ``credentials`` names what its key and certificates hold."""
    folder = str(Path(sys.executable).parent)
    return flower.launch(settings, state_directory, os.environ, interpreter_directory=folder, credentials=credentials)


def warm_server(settings: Settings, state_directory: Path, runtime_directory: Path) -> WarmServer:
    """Return what runs the tasks: the cell, or where node.toml switches it off, the warm launcher."""
    table = settings.warm
    warm = WarmSettings(
        mode=WarmMode(table.mode),
        idle_seconds=table.idle_seconds,
        minimum_available_bytes=table.minimum_available_megabytes * 1_000_000,
        maximum_memory_bytes=table.maximum_memory_megabytes * 1_000_000,
        modules=table.modules,
        short_polling=table.short_polling,
    )
    total = os.sysconf("SC_PHYS_PAGES") * procfs.PAGE_BYTES
    if settings.cell.mode == "required":
        return CellServer(
            warm,
            socket_path=default_socket(),
            state_directory=state_directory,
            runtime_directory=runtime_directory,
            total_memory_bytes=total,
        )
    return WarmServer(
        warm,
        state_directory=state_directory,
        runtime_directory=runtime_directory,
        total_memory_bytes=total,
        oom_score_adjustment=CHILD_OOM_SCORE,
    )


def clear_leftovers(parts: Components) -> None:
    """End what a killed agent left behind: SuperNode, its executor, a ClientApp, a warm process."""
    known, session = parts.agent_state.known, None
    if known.supernode_pid is not None and known.boot_id == parts.boot_id:
        leader = procfs.stat(known.supernode_pid)
        if leader is None or leader.start_ticks == known.supernode_start_ticks:
            session = known.supernode_pid
    left = end_leftovers(parts.node.marker, session=session)
    if left:
        LOGGER.warning(event("ended what an earlier agent left behind", processes=left))
