"""The order of imports inside agent and server, folder by folder: who may know whom. No circle anywhere.

`CONTRIBUTING.md` draws the same two orders. Imports under `TYPE_CHECKING` and inside functions count like all others:
what a module names, a reader of it must know.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from module_imports import imported_names, modules_of

# Lowest first. A folder (or module at the top) may import what stands on a lower line, and itself; names on one line do
# not know each other, unless the line's order is written with "<" in CONTRIBUTING.md and is split into lines here.
AGENT_ORDER = (
    ("common",),
    ("protocol",),
    ("system",),
    ("errors", "warm"),
    ("config", "state"),
    ("control", "identity", "supernode"),
    ("monitoring",),
    ("reporting",),
    ("models",),
    ("components",),
    ("telemetry", "checks"),
    ("daemon",),
    ("cli",),
    ("__main__",),
)
SERVER_ORDER = (
    ("errors", "log", "formatting"),
    ("charts",),
    ("config", "database"),
    ("service_user",),
    ("trust",),
    ("flower", "access"),
    ("enrolment", "backup"),
    ("nodes", "schedules"),
    ("runs",),
    ("models",),
    ("schemas",),
    ("http", "checks"),
    ("api", "web"),
    ("service",),
    ("cli",),
)
COMMON = {
    "firewall",
    "errors",
    "files",
    "addresses",
    "checks",
    "backoff",
    "flower_versions",
    "foreign_text",
    "endpoints",
    "formatting",
    "journal",
    "tailscale",
}
ORDERS = {"fleven_agent": AGENT_ORDER, "fleven/server": SERVER_ORDER}


def imports_of(repository: Path, modules: Mapping[str, Path], name: str) -> set[str]:
    """Return the modules that one of them imports, by the longest name that is known."""
    found = set()
    for full in imported_names(repository, modules[name]):
        parts = full.split(".")
        while parts and ".".join(parts) not in modules:
            parts.pop()
        found.add(".".join(parts))
    return found - {"", name}


def group_of(module: str, root: str) -> str | None:
    """Return the folder (or top module) of a root that a module belongs to; None for the root and for others."""
    prefix = root.replace("/", ".") + "."
    return module[len(prefix) :].split(".")[0] if module.startswith(prefix) else None


@pytest.mark.parametrize("root", sorted(ORDERS))
def test_every_folder_has_its_place_and_imports_only_what_is_below(repository: Path, root: str) -> None:
    rank = {name: floor for floor, line in enumerate(ORDERS[root]) for name in line}
    modules = modules_of(repository, root)
    groups = {group_of(module, root) for module in modules} - {None}
    assert groups == set(rank), "a folder or top module without a place in the order, or a place without one"
    wrong = []
    for module in modules:
        own = group_of(module, root)
        for imported in imports_of(repository, modules, module):
            other = group_of(imported, root)
            if own is None or other is None or other == own:
                continue
            if rank[other] >= rank[own]:
                wrong.append(f"{module} imports {imported}")
    assert sorted(set(wrong)) == []


@pytest.mark.parametrize("root", ["fleven", "fleven_agent"])
def test_there_is_no_circle_of_imports(repository: Path, root: str) -> None:
    modules = modules_of(repository, root)
    graph = {name: imports_of(repository, modules, name) for name in modules}
    done: set[str] = set()
    circles = []
    for start in graph:
        path: list[str] = []
        stack: list[tuple[str, Iterator[str]]] = [(start, iter(sorted(graph[start])))]
        if start in done:
            continue
        path.append(start)
        while stack:
            name, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                stack.pop()
                path.pop()
                done.add(name)
            elif following in path:
                circles.append(" > ".join([*path[path.index(following) :], following]))
            elif following not in done:
                stack.append((following, iter(sorted(graph[following]))))
                path.append(following)
    assert circles == []


def test_what_both_sides_share_needs_the_standard_library_alone(repository: Path) -> None:
    files = {file.stem for file in (repository / "fleven_agent/common").glob("*.py")} - {"__init__"}
    assert files == COMMON
    outside = {
        f"{name}: {imported}"
        for name in COMMON
        for imported in imported_names(repository, Path(f"fleven_agent/common/{name}.py"))
        if imported.split(".")[0] not in sys.stdlib_module_names and not imported.startswith("fleven_agent.common.")
    }
    assert outside == set()


def test_the_warm_process_imports_common_files_only_and_its_launcher_nothing(repository: Path) -> None:
    modules = modules_of(repository, "fleven_agent")
    foreign = {
        (module, imported)
        for module in modules
        if group_of(module, "fleven_agent") == "warm"
        for imported in imports_of(repository, modules, module)
        if group_of(imported, "fleven_agent") not in ("warm", None)
    }
    cell = {
        f"fleven_agent.common.cell.{name}"
        for name in ("asking", "hidden_tokens", "output", "relay", "request", "sandbox", "server", "stand_in", "sweep")
    }
    assert {imported for _, imported in foreign} <= {"fleven_agent.common.files", "fleven_agent.common.cell", *cell}
    launcher = imports_of(repository, modules, "fleven_agent.warm.launcher")
    assert launcher <= {"fleven_agent.common.cell", "fleven_agent.common.cell.asking"}


@pytest.mark.parametrize(("root", "order"), sorted(ORDERS.items()))
def test_the_picture_for_contributors_shows_the_same_order(
    repository: Path, root: str, order: tuple[tuple[str, ...], ...]
) -> None:
    page = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    picture = page.partition(f", `{root}/`:\n\n```text\n")[2].partition("```")[0]
    rows = [line.partition("|") for line in picture.splitlines()]
    assert all(words.strip() for _, _, words in rows), "a folder without its words"
    assert [set(names.split()) for names, _, _ in rows] == [set(line) for line in reversed(order)]


def test_the_table_for_contributors_names_files_that_exist(repository: Path) -> None:
    page = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = page.partition("| I want to")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(rows) == 10
    for row in rows:
        for place in re.findall(r"`((?:fleven|fleven_agent|etc|docs)/[^`]+)`", row):
            assert (repository / place).exists(), place
