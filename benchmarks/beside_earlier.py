"""What taking reports costs, beside an earlier version on the same machine in the same minutes.

    git worktree add ../earlier COMMIT ; cd ../earlier ; ./scripts/setup dev ; cd -
    python benchmarks/beside_earlier.py ../earlier 0.1.0 --json benchmarks/results/beside_earlier.json

Each version runs its own `report_ingest.py` with its own .venv, in turn, several times. Short runs, also on a machine
that others use: the ratio counts, and not the figures, which `report_ingest.py` alone gives better.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import describe

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ("cpu_milliseconds_per_report", "p50_milliseconds", "p99_milliseconds", "server_rss_bytes")
Content = dict[str, Any]


def measured(project: Path, *options: str) -> Content:
    """Run a version's benchmark and return what it wrote; it may miss its budgets."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [str(project / ".venv/bin/python"), "benchmarks/report_ingest.py", *options, "--json", str(file)]
        subprocess.run(command, cwd=project, check=False, stdout=subprocess.DEVNULL)
        return dict(json.loads(file.read_text(encoding="utf-8")))


def summary(name: str, runs: Mapping[str, Sequence[Content]]) -> Content:
    """Return the median of each figure of each version's runs.

    Args:
        name: the earlier version.
        runs: what `report_ingest.py` wrote, of `earlier` and of `now`.
    """
    medians = {
        version: {
            **{figure: statistics.median(run[figure] for run in found) for figure in FIGURES},
            "reports": sum(run["reports"] for run in found),
            "failures": sum(sum(run["failures"].values()) for run in found),
        }
        for version, found in runs.items()
    }
    first = runs["now"][0]
    shared = {"nodes": first["simulated_nodes"], "interval_seconds": first["interval_seconds"]}
    return {"machine": describe(), "name": name, **shared, "repeats": len(runs["now"]), **medians}


def main() -> None:
    """Measure both versions in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="checkout of the earlier version, with its .venv")
    parser.add_argument("name", help="its version")
    parser.add_argument("--nodes", type=int, default=400, help="simulated nodes that report")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    runs: dict[str, list[Content]] = {"earlier": [], "now": []}
    for _ in range(options.repeats):
        for version, project in (("earlier", options.folder), ("now", ROOT)):
            runs[version].append(measured(project, "--nodes", str(options.nodes), "--minutes", "1"))
    options.json.write_text(json.dumps(summary(options.name, runs), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
