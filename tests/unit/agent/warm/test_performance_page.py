"""docs/performance.md holds what was measured, and nothing else."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def script(repository: Path) -> ModuleType:
    path = repository / "benchmarks" / "write_performance.py"
    spec = importlib.util.spec_from_file_location("write_performance", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_results_give(script: ModuleType) -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.page(script.read_results(script.RESULTS))


def test_a_benchmark_without_results_gets_its_command(script: ModuleType) -> None:
    text = script.page({})
    for name, title, _ in script.SECTIONS:
        assert f"## {title}" in text
        command = script.COMMANDS.get(name, f"python benchmarks/{name}.py")
        assert f"{command} --json benchmarks/results/{name}.json" in text
        assert (script.ROOT / command.split()[1]).is_file()
