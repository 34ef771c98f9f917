"""What a module imports, read from its text: for the tests of who may import whom."""

import ast
import functools
from pathlib import Path

BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def modules_of(repository: Path, folder: str) -> dict[str, Path]:
    """Return the files of the modules under a folder, relative to the repository, by dotted name."""
    found = {}
    for file in sorted((repository / folder).rglob("*.py")):
        path = file.relative_to(repository)
        parts = path.with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    assert found, f"no Python files in {folder}: the test would check nothing"
    return found


@functools.cache
def imported_names(repository: Path, file: Path) -> frozenset[str]:
    """Return the absolute name of all that a file imports, wherever the statement stands in it.

    Of ``from a.b import c`` that is ``a.b.c``, whether ``c`` is a module or not.
    """
    names: set[str] = set()
    to_read: list[ast.AST] = [ast.parse((repository / file).read_text(encoding="utf-8"))]
    while to_read:
        node = to_read.pop()
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            folder = file.parts[: len(file.parts) - node.level] if node.level else ()
            module = ".".join([*folder, *([node.module] if node.module else [])])
            names.update(f"{module}.{alias.name}" for alias in node.names)
        for block in BLOCKS:
            to_read.extend(getattr(node, block, ()))
    return frozenset(names)
