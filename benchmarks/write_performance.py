"""Writes docs/performance.md from what the benchmarks measured, so that no figure in it is typed by hand.

    python benchmarks/round_overhead.py  --json benchmarks/results/round_overhead.json
    python benchmarks/warm_endurance.py  --json benchmarks/results/warm_endurance.json
    python benchmarks/train_step.py      --json benchmarks/results/train_step.json
    python benchmarks/data_pipeline.py   --json benchmarks/results/data_pipeline.json
    python benchmarks/many_trips.py      --json benchmarks/results/many_trips.json
    python benchmarks/report_ingest.py   --json benchmarks/results/report_ingest.json
    python benchmarks/beside_earlier.py FOLDER 0.1.0 --json benchmarks/results/beside_earlier.json
    python benchmarks/scheduler_tick.py  --json benchmarks/results/scheduler_tick.json
    python benchmarks/server_crash.py    --json benchmarks/results/server_crash.json
    python benchmarks/idle_cost.py --debs FOLDER --json benchmarks/results/idle_cost.json
    python benchmarks/run_start.py --debs FOLDER --json benchmarks/results/run_start.json
    python benchmarks/run_start.py --debs FOLDER --cooled --json benchmarks/results/run_start_cooled.json
    python benchmarks/task_memory.py --debs FOLDER --json benchmarks/results/task_memory.json
    python benchmarks/fleet_scale.py idle   --json benchmarks/results/fleet_idle.json
    python benchmarks/fleet_scale.py rounds --json benchmarks/results/fleet_rounds.json
    python benchmarks/hostile.py         --json benchmarks/results/hostile.json
    python benchmarks/accuracy.py --log FILE --json benchmarks/results/accuracy.json
    python benchmarks/accuracy.py --synthetic 10 --json benchmarks/results/accuracy_synthetic.json
    python benchmarks/hostile_rules.py --log FILE --json benchmarks/results/hostile_rules.json
    python benchmarks/predict_stream.py  --json benchmarks/results/predict_stream.json
    (tests/machines/test_cell_overhead.py runs round_overhead.py --cell and --app-cell on a machine with the packages:
    benchmarks/results/cell_overhead.json and app_cell_overhead.json)
    python benchmarks/write_performance.py
    python benchmarks/write_performance.py --check       # ends with 1 when the page is not what these files give

A benchmark without a file of results gets its command in the page in place of a table.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
Content = Mapping[str, Any]
COMMANDS = {
    "cell_overhead": "python3 benchmarks/round_overhead.py --cell /run/fleven-task/cell.sock",
    "idle_cost": "python benchmarks/idle_cost.py --debs FOLDER",
    "run_start": "python benchmarks/run_start.py --debs FOLDER",
    "run_start_cooled": "python benchmarks/run_start.py --debs FOLDER --cooled",
    "task_memory": "python benchmarks/task_memory.py --debs FOLDER",
    "app_cell_overhead": "python3 benchmarks/round_overhead.py --app-cell /run/fleven-app/cell.sock",
    "fleet_idle": "python benchmarks/fleet_scale.py idle",
    "fleet_rounds": "python benchmarks/fleet_scale.py rounds",
    "accuracy": "python benchmarks/accuracy.py --log FILE",
    "accuracy_synthetic": "python benchmarks/accuracy.py --synthetic 10",
    "hostile_rules": "python benchmarks/hostile_rules.py --log FILE",
}
"""Of results that are not named like their script."""

INTRODUCTION = """\
# Performance

<!-- Written by benchmarks/write_performance.py from benchmarks/results; edit that script, not this page. -->

A round of federated learning costs the learning and everything around it: starting programs, waiting for the next poll,
moving messages. FLEVEn removes most of what is around it and leaves Flower as it is. How:

- **Warm tasks.** SuperNode's executor starts `flwr-clientapp` for every task, a new Python that first imports Flower
  and torch. The agent puts a launcher of that name in front of it, which hands the task to a process that has already
  imported them and forks. Each task is still a process of its own, and if anything is unusual, Flower's own program
  is started instead.
- **Shorter waits while something happens.** SuperNode, its executor and the app look again after a twentieth of the
  time since something last happened, and never later than Flower would. An idle car asks once in minutes, and is woken
  for a run.
- **One task in each round.** With `fit-and-evaluate`, a car evaluates the global model and trains in the same task.
- **No compiler in a task.** The app's optimiser does torch's own steps without importing torch's compiler.

All figures below are medians unless they say otherwise, and every comparison was measured in one session on one
machine, in turn. Seconds differ from machine to machine; ratios hardly do.
"""


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args()
    text = page(read_results(RESULTS))
    if options.check:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        if not same:
            print(f"{PAGE.relative_to(ROOT)}: not what benchmarks/results gives (run {Path(__file__).name})")
        return 0 if same else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


def read_results(folder: Path) -> dict[str, Content]:
    """Return the content of each results file by its benchmark's name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def page(results: Mapping[str, Content]) -> str:
    """Return the whole page."""
    parts = [INTRODUCTION]
    for name, title, render in SECTIONS:
        parts.append(f"## {title}\n")
        if name in results:
            parts += [render(results[name]), machine(results[name]["machine"])]
        else:
            command = COMMANDS.get(name, f"python benchmarks/{name}.py") + f" --json benchmarks/results/{name}.json"
            parts.append(f"No results are kept. To measure: `{command}`.\n")
    return "\n".join(parts)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; all columns but the first are right-aligned."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def machine(content: Content) -> str:
    """Return one line about the machine."""
    load = content.get("load_average_at_end")
    return (
        f"Machine: {content['processor']}, {content['cores']} cores, {content['memory_mib'] / 1024:.0f} GiB, "
        f"{content['architecture']}, Linux {content['kernel']}, Python {content['python']}, Flower {content['flwr']}, "
        f"torch {content['torch']}" + (f"; load average at the end {load}" if load else "") + ".\n"
    )


def rounds(content: Content) -> str:
    """Return the tables of round_overhead.py."""
    kinds = {"stock": "stock Flower", "fleven": "FLEVEn"}
    apps = {"noop": "does nothing", "default": "the shipped app"}
    first, memory, summary = [], [], []
    for one in content["results"]:
        name = [f"{apps[one['app']]}, {one['nodes']} nodes", kinds[one["kind"]]]
        seconds = one["round_seconds"]
        first.append(
            [
                *name,
                str(len(seconds)),
                f"{statistics.median(seconds):.2f}",
                f"{min(seconds):.2f} to {max(seconds):.2f}",
                f"{statistics.median(one['overhead_seconds']):.2f}",
                f"{statistics.median(one['first_round_seconds']):.2f}",
                f"{statistics.median(one['node_cpu_seconds']):.2f}",
            ]
        )
        memory.append([*name, f"{one['idle_bytes'] / 2**20:.0f}", f"{one['peak_bytes'] / 2**20:.0f}"])
    for row in content["ratios"]:
        summary.append(
            f"- {apps[row['app']]}, {row['nodes']} nodes: **{row['fleven_overhead_seconds']:.2f} s of overhead in a "
            f"round against {row['stock_overhead_seconds']:.2f} s**, 1/{1 / row['ratio']:.0f} of stock Flower's; "
            f"1/{1 / row['cpu_ratio']:.0f} of its CPU time on a car.\n"
        )
    return "\n".join(
        [
            "".join(summary),
            "Overhead is a round's time without the work of its slowest car. Runs of both kinds took turns; the first\n"
            "round of each, which starts from idle nodes, is listed separately.\n",
            table(
                [
                    "app and size",
                    "",
                    "rounds",
                    "round [s]",
                    "range [s]",
                    "overhead [s]",
                    "first round [s]",
                    "CPU per node [s]",
                ],
                first,
            ),
            "Memory of a node: SuperNode, its executor, the warm process and a task together, each shared page\n"
            "counted once (PSS). Idle includes the warm process, which exits after `idle-seconds` or when memory is\n"
            "short.\n",
            table(["app and size", "", "idle [MiB]", "peak of a round [MiB]"], memory),
        ]
    )


def endurance(content: Content) -> str:
    """Return the account of warm_endurance.py."""
    kinds = ", ".join(f"{count} that {kind}" for kind, count in sorted(content["kinds"].items()))
    before, after = content["before"], content["after"]
    rows = [[key.replace("_", " "), str(before[key]), str(after[key])] for key in before if key != "private_bytes"]
    rows.append(
        ["private memory [MiB]", f"{before['private_bytes'] / 2**20:.1f}", f"{after['private_bytes'] / 2**20:.1f}"]
    )
    problems = "".join(f"- {problem}\n" for problem in content["problems"]) or "Every task ended as expected.\n"
    return "\n".join(
        [
            f"{content['tasks']} tasks through one warm process ({kinds}; warming up included):\n",
            table(["of the warm process", "before", "after"], rows),
            problems,
        ]
    )


def training(content: Content) -> str:
    """Return the table of train_step.py."""
    rows = [
        [
            f"{row['network']}, {row['kind']}",
            str(row["threads"]),
            f"{row['windows_per_second']:,.0f}",
            f"{row['speed_ratio']:.2f}",
            f"{row['gemm_share']:.1%}",
            f"{row['memory_bytes'] / 1e6:.0f}",
        ]
        for row in content["table"]
    ]
    head = [
        "network and way",
        "threads",
        "windows/s",
        "of a plain loop",
        "of the matrix rate",
        "memory above start [MB]",
    ]
    text = (
        "`plain` is a PyTorch DataLoader loop over the same windows; "
        "the matrix rate is that of a large matrix product.\n"
    )
    return f"{text}\n{table(head, rows)}"


def pipeline(content: Content) -> str:
    """Return the table of data_pipeline.py."""
    rows = [
        [
            f"{row['format']}, {row['kind']}",
            f"{row['windows']:,}",
            f"{row['seconds']:.3f}",
            f"{row['speed_ratio']:.1f}",
            f"{row['memory_bytes'] / 1e6:.0f}",
        ]
        for row in content["table"]
    ]
    head = ["files and way", "windows", "seconds", "times as fast as plain", "memory above start [MB]"]
    text = "`plain` is pandas and a Python loop; `cached` is what every task after the first does.\n"
    return f"{text}\n{table(head, rows)}"


def many_trips(content: Content) -> str:
    """Return the table of many_trips.py."""
    rows = [
        [row["kind"], str(row["times"]), f"{row['seconds']:.2f}", f"{row['cpu_seconds']:.2f}"]
        for row in content["table"]
    ]
    text = (
        f"A car with {content['trips']:,} trips of {content['rows']} readings: from a task's fork to its windows. With "
        f"one new trip it may cost {content['budget_seconds']} s of processor time, a third of which imports "
        "pandas.\n\n"
    )
    return text + table(["trips since the task before", "times", "seconds", "processor [s]"], rows)


def ingest(content: Content) -> str:
    """Return the account of report_ingest.py."""
    budgets = content["budgets"]
    rows = [
        ["reports answered", f"{content['reports']:,}", ""],
        ["reports not answered", str(sum(content["failures"].values())), "0"],
        ["processor [% of a core]", str(content["cpu_percent_of_one_core"]), str(budgets["cpu_percent_of_one_core"])],
        ["answer, median [ms]", str(content["p50_milliseconds"]), ""],
        ["answer, 99 of 100 [ms]", str(content["p99_milliseconds"]), str(budgets["p99_milliseconds"])],
        ["answer, slowest [ms]", str(content["maximum_milliseconds"]), ""],
        ["memory of the server [MiB]", f"{content['server_rss_bytes'] / 2**20:.0f}", ""],
    ]
    text = (
        f"{content['simulated_nodes']:,} simulated nodes report to a real server "
        f"every {content['interval_seconds']:.0f} s for {content['wall_seconds'] / 60:.0f} minutes.\n"
    )
    return f"{text}\n{table(['', 'measured', 'budget'], rows)}"


def beside_earlier(content: Content) -> str:
    """Return the account of beside_earlier.py."""
    before, now = content["earlier"], content["now"]
    figures = (
        ("processor time per report [ms]", "cpu_milliseconds_per_report", 1.0, 2),
        ("memory of the server [MiB]", "server_rss_bytes", 2.0**20, 0),
    )
    rows = [
        [title, f"{before[key] / unit:.{digits}f}", f"{now[key] / unit:.{digits}f}", f"{now[key] / before[key]:.2f}"]
        for title, key, unit, digits in figures
    ]
    interval, name = content["interval_seconds"], content["name"]
    text = (
        f"{content['nodes']:,} simulated nodes report every {interval:.0f} s for a minute to a server with "
        f"`insecure = true`, as {name} was:\n{content['repeats']} times to each version in turn; medians. "
        "The machine was also busy with other work,\nso only the ratio counts, and the time that an answer took is "
        "left out.\n"
    )
    return f"{text}\n{table(['', content['name'], 'now', 'ratio'], rows)}"


def ticks(content: Content) -> str:
    """Return the table of scheduler_tick.py."""
    rows = [
        [row["turn"], *(f"{row[key]:.1f}" for key in ("milliseconds", "cpu_milliseconds", "small_cpu_milliseconds"))]
        for row in content["table"]
    ]
    head = ["turn of the scheduler", "[ms]", "processor [ms]", "processor, small register [ms]"]
    text = (
        "With 1,000 schedules and 100,000 past runs; the small register has 10 and 100. Budget: "
        f"{content['budget_milliseconds']:.0f} ms.\n"
    )
    return f"{text}\n{table(head, rows)}"


def crashes(content: Content) -> str:
    """Return the account of server_crash.py."""
    died = sum(content["died_amid_rounds"].values())
    rows = [[moment, str(count)] for moment, count in content["crashes_by_moment"].items()]
    problems = "".join(f"- {problem}\n" for problem in content["problems"]) or (
        "Every requested run succeeded, once each; nothing was submitted twice or left running.\n"
    )
    return "\n".join(
        [
            f"{content['crashes']} crashes during {content['runs']} runs with real Flower. {died} ServerApps died "
            f"during their rounds; {content['retries']} attempts were retries, "
            f"{content['retries_from_a_checkpoint']} of them from a checkpoint.\n",
            table(["killed: the server at a step of a run, or another part", "times"], rows),
            problems,
        ]
    )


def run_start(content: Content) -> str:
    """Return the table of run_start.py."""
    rows = [[phase, f"{seconds:.2f}"] for phase, seconds in content["phases"].items()]
    runs = content["runs"]
    first = [run["first-tasks"] for run in runs]
    cooled = " whose warm processes had exited," if content.get("cooled") else ""
    return (
        f"{len(runs)} runs of {content['rounds']} rounds, from {content['cars']} idle cars (TLS, enrolled),{cooled} "
        f"took **{content['first_task_seconds']:.1f} s** ({min(first):.1f} to {max(first):.1f}) from the command to "
        f"the first task on every car, and {content['fixed_seconds']:.1f} s outside the rounds.\n\n"
        + table(["phase", "[s]"], rows)
    )


def fleet_idle(content: Content) -> str:
    """Return the table of fleet_scale.py's idle cars."""
    minutes = content["wall_seconds"] / 60
    text = (
        f"{content['cars']:,} idle cars, simulated at protocol level (TLS, enrolled, stretched as shipped), for "
        f"{minutes:.0f} minutes: SuperLink and fleven-server together take **{content['percent_of_a_core']:.1f} % of a "
        "core** (budget 25).\n\n"
    )
    rows = [
        ["pulls", f"{content['pulls']:,}"],
        ["heartbeats", f"{content['heartbeats']:,}"],
        ["reports", f"{content['reports']:,}"],
        ["nodes online at the end", f"{content['online_for_superlink']:,}"],
        ["SuperLink [% of a core]", f"{content['superlink_percent_of_a_core']:.1f}"],
        ["fleven-server [% of a core]", f"{content['server_percent_of_a_core']:.1f}"],
        ["memory of the SuperLink [MiB]", str(content["superlink_rss_mib"])],
        ["memory of fleven-server [MiB]", str(content["server_rss_mib"])],
    ]
    return text + table(["", "measured"], rows)


def fleet_rounds(content: Content) -> str:
    """Return the table of fleet_scale.py's rounds."""
    loops = {"stock": "Flower's FedAvg", "fleven": "the shipped app"}
    rows = [
        [
            f"{one['nodes']:,}",
            loops[one["loop"]],
            f"{statistics.median(one['round_seconds']):.1f}",
            f"{one['superlink_cpu_milliseconds']:.0f}",
            f"{one['server_app_cpu_milliseconds']:.0f}",
            str(one["superlink_rss_mib"]),
            str(one["server_app_rss_mib"]),
        ]
        for one in content["rounds"]
    ]
    text = (
        "Simulated nodes that answer at once with a model of the default size, from one process on the same machine. "
        "Flower's loop sends two tasks a round, the shipped app one. Processor time is for each node and round. "
        "[scaling.md](scaling.md) says what this means for the size of a fleet.\n\n"
    )
    head = ["nodes", "ServerApp", "a round [s]", "SuperLink, processor [ms]", "ServerApp, processor [ms]"]
    return text + table([*head, "SuperLink [MiB]", "ServerApp [MiB]"], rows)


def floods(content: Content) -> str:
    """Return the table of hostile.py."""
    names = list(next(iter(content["floods"].values())))
    rows = [[flood, *(_cost(found.get(name, {})) for name in names)] for flood, found in content["floods"].items()]
    text = (
        "How much people without rights, and one car with an identity, can make the server's processes and its "
        "register grow. Senders without an identity may cost 100 MB of memory and 1 MB of register per minute, all of "
        "them together; a car may use 40 MB of register at once, and 1 MB per minute after that.\n"
    )
    titles = ["with `insecure = true`" if name == "open doors" else name for name in names]
    return f"{text}\n{table(['flood', *titles], rows)}"


def _cost(found: Content) -> str:
    parts = [
        f"{found[key]:+.{digits}f} MB {word}"
        for key, word, digits in (("memory_megabytes", "memory", 0), ("register_megabytes", "register", 1))
        if key in found
    ]
    return ", ".join([*parts, str(found.get("answer", ""))])


COLD_CELL_MEGABYTES = 50


def idle(content: Content) -> str:
    """Return the tables of idle_cost.py."""
    own = content["cars"]["fleven"]["processes"]
    warm = any("warm cell" in row["process"] and row["pss_megabytes"] > COLD_CELL_MEGABYTES for row in own)
    names = {
        "stock": "stock SuperNode",
        "fleven": "FLEVEn, warm" if warm else "FLEVEn, whose warm process had exited",
        "metered": "FLEVEn, metered, warm off",
    }
    cars = {kind: content["cars"][kind] for kind in names}
    bare = content["cars"]["nothing"]["disk_bytes"]
    rows = []
    for kind, one in cars.items():
        a_day = 86_400 / one["seconds"] / 1e6
        rows.append(
            [
                names[kind],
                f"{one['traffic']['day_megabytes']:.2f}",
                f"{one['memory_megabytes']:.0f}",
                f"{one['cpu_percent']:.2f}",
                f"{max(0, one['disk_bytes'] - bare) * a_day:.1f}",
            ]
        )
    parts = sorted(
        {row["kind"] for one in cars.values() for row in one["traffic"]["rows"] if "others" not in row["kind"]}
    )
    by_part = []
    for part in parts:
        carried = [
            sum(row["wire_bytes"] for row in one["traffic"]["rows"] if row["kind"] == part) / one["seconds"] * 0.0864
            for one in cars.values()
        ]
        by_part.append([part, *(f"{amount:.3f}" if amount else "" for amount in carried)])
    seconds = next(iter(cars.values()))["seconds"]
    head = ["a car", "on the wire [MB a day]", "memory [MB]", "processor [%]", "written to disk [MB a day]"]
    return (
        f"Booted machines with the packages, over {seconds / 60:.0f} minutes in which nothing happened, beside a stock "
        "SuperNode over TLS with a key. On the wire counts every packet from the header of IP on, acknowledgements "
        "included. Memory is that of all of FLEVEn and Flower, each shared page counted once. Writes are those of "
        "the machine's file system, with its journal, minus those of a machine that has neither; the hourly write by "
        "which the agent tests the card is not among them (20 to 60 kB each, 1.5 MB a day at most).\n\n"
        + table(head, rows)
        + "\n"
        + table(["on the wire, MB a day", *(names[kind] for kind in cars)], by_part)
    )


def task_memory(content: Content) -> str:
    """Return the account of task_memory.py."""
    runs = content["runs"]
    more = [run["more_megabytes"] for run in runs]
    parts = sorted({row["process"] for run in runs for row in [*run["idle"], *run["highest"]]})

    def part(kind: str, name: str) -> float:
        return statistics.median(
            sum(row["pss_megabytes"] for row in run[kind] if row["process"] == name) for run in runs
        )

    rows = [[name, f"{part('idle', name):.1f}", f"{part('highest', name):.1f}"] for name in parts]
    rows.append(
        [
            "together",
            f"{statistics.median(run['idle_megabytes'] for run in runs):.1f}",
            f"{statistics.median(run['highest_megabytes'] for run in runs):.1f}",
        ]
    )
    return (
        f"{len(runs)} runs of {content['rounds']} rounds of the shipped app on a booted car with the packages: all of "
        "FLEVEn and Flower on it, each shared page counted once (PSS), idle with a warm process before the run, and "
        f"at the highest moment of the run. A task takes **{statistics.median(more):.0f} MB** more ({min(more):.0f} to "
        f"{max(more):.0f}; budget {content['budget_megabytes']}). About half of that is code of torch, which Linux can "
        "take away and read again. A task that has to read trips imports pandas as well, and takes some 50 MB more.\n\n"
        + table(["[MB]", "idle", "highest"], rows)
    )


def cell(content: Content) -> str:
    """Return the table of round_overhead.py with a cell."""
    kinds = {
        "fleven": "tasks without the cell",
        "cell": "tasks in the cell",
        "server-app": "ServerApps without cells",
        "server-cell": "ServerApps in cells",
    }
    apps = {"noop": "does nothing", "default": "the shipped app"}
    rows, shares = [], []
    medians: dict[tuple[str, str], float] = {}
    for one in content["results"]:
        seconds = one["round_seconds"]
        medians[one["app"], one["kind"]] = statistics.median(seconds)
        rows.append(
            [
                f"{apps[one['app']]}, {kinds[one['kind']]}",
                str(len(seconds)),
                f"{statistics.median(seconds):.3f}",
                f"{min(seconds):.2f} to {max(seconds):.2f}",
                f"{statistics.median(one['node_cpu_seconds']):.2f}",
            ]
        )
    for app, name in apps.items():
        for inside, outside in (("cell", "fleven"), ("server-cell", "server-app")):
            if (app, inside) in medians:
                share = medians[app, inside] / medians[app, outside]
                shares.append(f"- {name}: a round in the cell takes **{share:.3f}** times as long as one without it.\n")
    head = ["one node on a booted machine with the packages", "rounds", "round [s]", "range [s]", "CPU [s]"]
    return "\n".join(["".join(shares), table(head, rows)])


def accuracy(content: Content) -> str:
    """Return the table of accuracy.py."""
    seeds, rows = content["seeds"], content["rows"]
    names = {
        "federated": "global",
        "personal": "each car's own, made from it",
        "centralised": "all trips in one place",
        "local-only": "each car alone, as many epochs",
        "gradient boosting": "gradient boosting, all trips in one place",
        "ridge, current reading": "ridge on the current reading, all trips in one place",
    }
    lines = []
    for kind, clients in sorted({(row["kind"], row["clients"]) for row in rows}, key=lambda one: (one[1], one[0])):
        own = [row for row in rows if (row["kind"], row["clients"]) == (kind, clients)]
        r2 = [row["r2"] for row in own]
        spread = f"{min(r2):.3f} to {max(r2):.3f}" if len(r2) > 1 else ""
        kept = ", ".join(str(row["kept"]) for row in own if "kept" in row)
        lines.append(
            [
                names[kind],
                str(clients),
                ", ".join(f"{value:.3f}" for value in r2),
                f"**{statistics.median(r2):.3f}**",
                spread,
                f"{statistics.median(row['rmse'] for row in own):.2f}",
                kept,
            ]
        )
    made = [row for row in rows if row["kind"] == "personal"]
    most = max(row["clients"] for row in made)
    costs = [row for row in made if row["clients"] == most]
    a_round, last = (
        statistics.median(row[name] for row in costs) for name in ("round_cpu_seconds", "last_cpu_seconds")
    )
    drivers = (
        f"A synthetic fleet of {content['synthetic_cars']} cars (`fleven data synthesise`), which differ less in how "
        "they are driven."
        if content["synthetic_cars"]
        else "One log of 19 drivers (ELM327, a reading about every four seconds), in as many cars as the column says."
    )
    seeds_text = ", ".join(map(str, seeds))
    head = ["model", "cars", f"R², seeds {seeds_text}", "median", "spread", "RMSE [km/h]", "cars that kept their own"]
    return (
        f"{drivers} The app's own code, simulated in one process, with the settings as shipped; each model is measured "
        f"on the same {rows[0]['windows']:,} held-out windows, pooled.\n\n"
        + table(head, lines)
        + f"\nThe making of own models, in the last evaluation, cost a car {last:.2f} s of its processor here; a round "
        f"costs it {a_round:.2f} s. So it costs as much as {last / a_round:.1f} rounds, once in a run.\n"
    )


def hostile_rules(content: Content) -> str:
    """Return the tables of hostile_rules.py."""
    rows, count = content["rows"], len(content["unlike"])
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        found = {
            rule: statistics.median(row["r2"] for row in rows if (row["kind"], row["rule"]) == (kind, rule))
            for rule in rules
        }
        lines.append([kind, *(f"{found[rule]:.3f}" for rule in rules)])
    prices = [
        [f"`{row['rule']}`", *(f"{row[name]:.3f}" for name in ("r2", "personal_r2"))]
        + [f"{row[name]:.2f}" for name in ("rmse", "personal_rmse")]
        for row in content["prices"]
    ]
    several = len(content["seeds"]) > 1
    seeds = f"{'median of the seeds' if several else 'seed'} {', '.join(map(str, content['seeds']))}"
    return (
        "The trips of 19 drivers in five cars, of which one answers falsely: R² of the global model on the held-out "
        f"windows of the four others, {seeds}. With `mean` it may fall by 0.05 at most, with "
        'another rule by 0.02. "A billion rows" states as many rows and windows as an answer may.\n\n'
        + table(["the fifth car", *(f"`{rule}`" for rule in rules)], lines)
        + f"\nWhat a rule costs where all are honest: each driver in a car of its own. The {count} cars whose "
        "changes were least like the others' with `mean` are those that drive differently.\n\n"
        + table(
            [
                "rule",
                "R², all cars",
                "with own models",
                f"RMSE of the {count} [km/h]",
                "with own models [km/h]",
            ],
            prices,
        )
    )


def predictions(content: Content) -> str:
    """Return the table of predict_stream.py."""
    budgets = content["budgets"]
    rows = [
        ["a reading, median [ms]", f"{content['p50_milliseconds']:.2f}", ""],
        ["a reading, 99 of 100 [ms]", f"{content['p99_milliseconds']:.2f}", f"{budgets['p99_milliseconds']:g}"],
        ["a reading, slowest [ms]", f"{content['longest_milliseconds']:.1f}", ""],
        ["memory of the process [MB]", f"{content['rss_megabytes']:.0f}", f"{budgets['rss_megabytes']:g}"],
    ]
    return (
        f"`fleven predict --follow` with the shipped network, {content['readings']:,} readings one by one through its "
        "pipes.\n\n" + table(["", "measured", "budget"], rows)
    )


SECTIONS: tuple[tuple[str, str, Callable[[Content], str]], ...] = (
    ("round_overhead", "A round without the learning", rounds),
    ("run_start", "How soon a run starts working", run_start),
    ("run_start_cooled", "How soon a run starts working after a long pause", run_start),
    ("idle_cost", "A car that waits", idle),
    ("task_memory", "What a task takes of a car's memory", task_memory),
    ("cell_overhead", "What the car's cell adds to a round", cell),
    ("app_cell_overhead", "What the cells of ServerApps add to a round", cell),
    ("warm_endurance", "Hundreds of tasks through one warm process", endurance),
    ("train_step", "Training on a car", training),
    ("data_pipeline", "From trip files to windows", pipeline),
    ("many_trips", "A car with very many trips", many_trips),
    ("fleet_idle", "A thousand idle cars", fleet_idle),
    ("fleet_rounds", "Rounds of large fleets", fleet_rounds),
    ("report_ingest", "A thousand reporting cars", ingest),
    ("beside_earlier", "Reports, compared with version 0.1.0", beside_earlier),
    ("scheduler_tick", "The scheduler with a long past", ticks),
    ("server_crash", "A server that is killed again and again", crashes),
    ("hostile", "Floods from people without rights", floods),
    ("accuracy", "How good the models are", accuracy),
    ("accuracy_synthetic", "How good the models are on synthetic cars", accuracy),
    ("hostile_rules", "With one hostile car of five", hostile_rules),
    ("predict_stream", "Predicting without the server", predictions),
)

if __name__ == "__main__":
    sys.exit(main())
