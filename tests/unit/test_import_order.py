"""The order of imports inside agent and server, folder by folder: who may know whom. No circle anywhere.

`CONTRIBUTING.md` draws the same two orders. Imports under `TYPE_CHECKING` and inside functions count like all others:
what a module names, a reader of it must know.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def modules_of(repository: Path, folder: str) -> dict[str, Path]:
    """Return the modules under a folder by dotted name."""
    found = {}
    for file in sorted((repository / folder).rglob("*.py")):
        parts = file.relative_to(repository).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    assert found, f"no Python files in {folder}: the test would check nothing"
    return found


def imports_of(name: str, file: Path, known: set[str]) -> Iterator[str]:
    """Yield the modules that a module imports, wherever the statement stands, by the longest name that is known."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        wanted: list[str] = []
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            wanted = [f"{module}.{alias.name}" for alias in node.names]
        for full in wanted:
            parts = full.split(".")
            while parts and ".".join(parts) not in known:
                parts.pop()
            if parts and ".".join(parts) != name:
                yield ".".join(parts)


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
    for module, file in modules.items():
        own = group_of(module, root)
        for imported in imports_of(module, file, set(modules)):
            other = group_of(imported, root)
            if own is None or other is None or other == own:
                continue
            if rank[other] >= rank[own]:
                wrong.append(f"{module} imports {imported}")
    assert sorted(set(wrong)) == []


@pytest.mark.parametrize("root", ["fleven", "fleven_agent"])
def test_there_is_no_circle_of_imports(repository: Path, root: str) -> None:
    modules = modules_of(repository, root)
    graph = {name: set(imports_of(name, file, set(modules))) for name, file in modules.items()}
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
    outside = set()
    for name in COMMON:
        for node in ast.walk(ast.parse((repository / f"fleven_agent/common/{name}.py").read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "."]
            outside |= {
                f"{name}: {one}"
                for one in names
                if one.split(".")[0] not in sys.stdlib_module_names and not one.startswith("fleven_agent.common")
            }
    assert outside == set()


def test_the_warm_process_imports_common_files_only_and_its_launcher_nothing(repository: Path) -> None:
    modules = modules_of(repository, "fleven_agent")
    foreign = {
        (module, imported)
        for module, file in modules.items()
        if group_of(module, "fleven_agent") == "warm"
        for imported in imports_of(module, file, set(modules))
        if group_of(imported, "fleven_agent") not in ("warm", None)
    }
    cell = {
        f"fleven_agent.common.cell.{name}"
        for name in ("asking", "hidden_tokens", "output", "relay", "request", "server", "stand_in", "sweep")
    }
    assert {imported for _, imported in foreign} <= {"fleven_agent.common.files", "fleven_agent.common.cell", *cell}
    launcher = imports_of("fleven_agent.warm.launcher", modules["fleven_agent.warm.launcher"], set(modules))
    assert set(launcher) <= {"fleven_agent.common.cell", "fleven_agent.common.cell.asking"}


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
