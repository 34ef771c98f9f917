"""docs/performance.md holds what was measured, and nothing else."""

import write_performance as script


def test_the_page_is_what_the_results_give() -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.page(script.read_results(script.RESULTS))


def test_a_benchmark_without_results_gets_its_command() -> None:
    text = script.page({})
    for name, title, _ in script.SECTIONS:
        assert f"## {title}" in text
        command = script.COMMANDS.get(name, f"python benchmarks/{name}.py")
        assert f"{command} --json benchmarks/results/{name}.json" in text
        assert (script.ROOT / command.split()[1]).is_file()
