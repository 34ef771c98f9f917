#!/usr/bin/env python3
"""Changes the deciding modules, one small change at a time, and counts the changes that their own tests notice.

Cosmic Ray makes the mutants: another comparison, a number one higher or lower, a condition negated. tests/mutation.toml
says which module is tried with which test files, and which mutants change nothing. Each mutant runs in a fork of this
process, which has imported everything but FLEVEn: a tenth of a second instead of several. No file is ever changed.

Usage: scripts/mutation.py [--jobs N] [NAME ...]      exits with 1 when a module scores below the minimum
"""

import argparse
import contextlib
import difflib
import importlib
import importlib.machinery
import importlib.util
import os
import re
import resource
import shutil
import sys
import tempfile
import tomllib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "mutation.toml"

# Few replacements for each operator: the others are noticed by nearly any test, and would only make scores look good.
OPERATORS = re.compile(
    r"core/(?:"
    r"ReplaceComparisonOperator_(?:Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is|Lt_(?:LtE|GtE)|LtE_(?:Lt|Gt)|Gt_(?:GtE|LtE)|GtE_(?:Gt|Lt))"
    r"|ReplaceBinaryOperator_(?:Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Div|Mod_FloorDiv|Pow_Mul|BitOr_BitAnd|BitAnd_BitOr|BitXor_BitAnd|LShift_RShift|RShift_LShift)"
    r"|ReplaceUnaryOperator_(?:USub_UAdd|Delete_Not|Delete_Invert)"
    r"|AddNot|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd"
    r"|ReplaceBreakWithContinue|ReplaceContinueWithBreak|ExceptionReplacer|NumberReplacer|RemoveDecorator|ZeroIterationForLoop"
    r")"
)


@dataclass(frozen=True)
class Mutant:
    """A change: the lines that it takes away and puts in their place, without their indentation."""

    line_number: int
    above: str
    """The line above, by which two that are alike can be told apart."""
    line: str
    becomes: str
    source: str = field(repr=False)

    def is_listed(self, entry: dict[str, str]) -> bool:
        """Whether an entry of the list of equivalent mutants means this one."""
        same = (self.line, self.becomes) == (entry["line"], entry["becomes"])
        return same and entry.get("below", self.above) == self.above


class MutatedLoader(importlib.machinery.SourceFileLoader):
    """Loads one module from a text instead of its file."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> Any:
        """Compile the text; the file's cached byte code is left alone."""
        return compile(self._source, self.path, "exec", dont_inherit=True)


class MutatedFinder:
    """Finds one module, before all other finders."""

    def __init__(self, path: Path, source: str) -> None:
        self._name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        self._loader = MutatedLoader(self._name, str(path), source)

    def find_spec(self, fullname: str, _path: object = None, _target: object = None) -> Any:
        """Answer for that one module only."""
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._loader.path, loader=self._loader)


def left_out(node: Any) -> bool:
    """Whether a node stands in a text, a type, a list of parameters or the options of a dataclass: no decision."""
    while (above := node.parent) is not None:
        if node.type == "decorator" and "dataclass" in node.get_code():
            return True
        if node.type == "if_stmt" and node.children[1].get_code().strip() == "TYPE_CHECKING":
            return True
        if node.type.startswith("fstring") or (
            node.type == "arith_expr" and any(child.type in {"string", "fstring", "strings"} for child in node.children)
        ):
            return True
        if is_type(node, above) or (node.type == "operator" and above.type in {"param", "parameters"}):
            return True
        node = above
    return False


def is_type(node: Any, above: Any) -> bool:
    """Whether a node is an annotation, or the right side of an assignment that gives a type a name."""
    match above.type:
        case "annassign":
            return above.children[1] is node
        case "tfpdef":
            return above.children[2] is node
        case "funcdef":
            return above.annotation is node
        case "expr_stmt":
            return node.type == "expr" and all(part.type == "name" for part in node.children[::2])
    return False


def mutants_of(source: str) -> Iterator[Mutant]:
    """Yield the mutants of a module's text, in the order of its lines for each kind of change."""
    tree = get_ast(source)
    for name in operator_names():
        if not OPERATORS.fullmatch(name):
            continue
        operator = get_operator(name)()
        positions = ((node, start) for node in ast_nodes(tree) for start, _ in operator.mutation_positions(node))
        for occurrence, (node, (line_number, _)) in enumerate(positions):
            if left_out(node):
                continue
            mutated = mutate_code(source, operator, occurrence)
            if mutated is not None:
                above = source.splitlines()[line_number - 2].strip()
                yield Mutant(line_number, above, *changed_lines(source, mutated), mutated)


def changed_lines(source: str, mutated: str) -> tuple[str, str]:
    """Return the lines that a mutant takes away and those that it puts in their place, each joined to one."""
    difference = list(difflib.ndiff(source.splitlines(), mutated.splitlines()))
    before, after = ([line[2:] for line in difference if line.startswith(sign)] for sign in ("- ", "+ "))
    return " ".join(" ".join(before).split()), " ".join(" ".join(after).split())


def start_tests(files: list[str], cpu_seconds: int, output: Path, module: MutatedFinder) -> int:
    """Start the tests in a fork of this process, with one module as it is handed in; return the process id.

    The names of the modules that the tests have loaded follow their output after a form feed.
    """
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        with output.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
        sys.meta_path.insert(0, module)
        folder = output.with_suffix(".tmp")
        folder.mkdir()
        # No example that hypothesis found with one mutant may help with another, nor stay in the checkout.
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
        options = ["-x", "-q", "--assert=plain", "--timeout=60", "--hypothesis-seed=0", "-p", "no:cacheprovider"]
        status = int(pytest.main([*options, *files]))
        print("\f", *sys.modules, sep="\n")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_clean(files: list[str], output: Path, module: MutatedFinder) -> tuple[float, list[str]]:
    """Run the tests of the unchanged module; return their CPU seconds and the modules that they have loaded."""
    _, status, used = os.wait4(start_tests(files, 600, output, module), 0)
    printed, _, names = output.read_text(encoding="utf-8").partition("\f")
    shutil.rmtree(output.with_suffix(".tmp"), ignore_errors=True)
    if status:
        sys.exit(f"mutation: the tests fail without any mutant: {' '.join(files)}\n{printed}")
    return used.ru_utime + used.ru_stime, names.split()


def prepare(files: list[str], output: Path, module: MutatedFinder) -> float:
    """Import what the tests need apart from FLEVEn; return the CPU seconds that a run then takes."""
    _, names = run_clean(files, output, module)
    for name in names:
        if not name.startswith(("fleven", "test", "conftest", "__main__")):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    return run_clean(files, output, module)[0]


def survivors_of(path: Path, files: list[str], mutants: list[Mutant], jobs: int, folder: Path) -> list[Mutant]:
    """Try all mutants; return those that no test noticed. One that runs for ever, or ends its process, is noticed."""
    unchanged = MutatedFinder(path, path.read_text(encoding="utf-8"))
    cpu_seconds = 5 + int(5 * prepare(files, folder / "clean", unchanged))
    running: dict[int, tuple[Mutant, Path]] = {}
    found: list[Mutant] = []
    for number, mutant in enumerate([*mutants, None]):
        while running and (mutant is None or len(running) >= jobs):
            process, status = os.wait()
            tried, output = running.pop(process)
            shutil.rmtree(output.with_suffix(".tmp"), ignore_errors=True)
            output.unlink()
            if status == 0:
                found.append(tried)
        if mutant is not None:
            output = folder / str(number)
            process = start_tests(files, cpu_seconds, output, MutatedFinder(path, mutant.source))
            running[process] = mutant, output
    run_clean(files, folder / "clean", unchanged)  # tests that fail by now noticed something else than mutants
    return found


def measure(name: str, module: dict[str, Any], minimum: float, jobs: int) -> bool:
    """Try one module; print its score and each mutant that counts against it; return whether all is well."""
    path, listed = ROOT / module["module"], module.get("equivalent", [])
    mutants = list(mutants_of(path.read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory(prefix="fleven-mutation-") as folder:
        survivors = survivors_of(path, module["tests"], mutants, jobs, Path(folder))
    missed = [mutant for mutant in survivors if not any(map(mutant.is_listed, listed))]
    counted = len(mutants) - (len(survivors) - len(missed))
    score = 100 * (1 - len(missed) / counted)
    noticed, equivalent = counted - len(missed), len(mutants) - counted
    print(f"{name:14} {score:5.1f} %   {noticed} of {counted} noticed, {equivalent} equivalent", flush=True)
    for mutant in sorted(missed, key=lambda one: one.line_number):
        print(f"  {module['module']}:{mutant.line_number}\n    - {mutant.line}\n    + {mutant.becomes}")
    stale = [entry for entry in listed if not any(mutant.is_listed(entry) for mutant in survivors)]
    for entry in stale:
        print(
            f"  to be taken out of {LIST.name}, being noticed or gone:\n    - {entry['line']}\n    + {entry['becomes']}"
        )
    return score >= minimum and not stale


def main() -> int:
    """Measure the modules that are named, or all."""
    parser = argparse.ArgumentParser(prog="scripts/test mutation", description=__doc__.split("\n\n")[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants tried at a time")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a module of tests/mutation.toml; all without one")
    arguments = parser.parse_args()
    listed = tomllib.loads(LIST.read_text(encoding="utf-8"))
    minimum, modules = listed["minimum-percent"], listed["modules"]
    unknown = set(arguments.names) - set(modules)
    if unknown:
        parser.error(f"not in {LIST.name}: {', '.join(sorted(unknown))} (there are: {', '.join(modules)})")
    os.chdir(ROOT)
    names = arguments.names or list(modules)
    well = [measure(name, modules[name], minimum, arguments.jobs) for name in names]
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
