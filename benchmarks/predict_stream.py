#!/usr/bin/env python3
"""What `fleven predict --follow` costs: the time from a reading to its prediction, and the memory of the process.

The real command, fed line by line through its pipes as a logger would feed it. The first readings, which fill the
window, are not counted.

    benchmarks/predict_stream.py                       # the shipped shape of network, untrained: it costs the same
    benchmarks/predict_stream.py --model model.safetensors --readings 20000
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import describe

P99_MILLISECONDS, RSS_MEGABYTES = 5.0, 80.0


def main() -> int:
    """Measure, print, and say by the exit code whether both bounds hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--readings", type=int, default=5000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        taken, rss = measure(options.model or untrained(Path(scratch)), options.readings)
    p50, p99, longest = (1000 * float(np.quantile(taken, share)) for share in (0.5, 0.99, 1.0))
    print(f"{len(taken)} readings: p50 {p50:.2f} ms, p99 {p99:.2f} ms, longest {longest:.1f} ms; RSS {rss:.0f} MB")
    if options.json:
        content = {
            "machine": describe(),
            "readings": len(taken),
            "p50_milliseconds": p50,
            "p99_milliseconds": p99,
            "longest_milliseconds": longest,
            "rss_megabytes": rss,
            "budgets": {"p99_milliseconds": P99_MILLISECONDS, "rss_megabytes": RSS_MEGABYTES},
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if p99 <= P99_MILLISECONDS and rss <= RSS_MEGABYTES else 1


def untrained(folder: Path) -> Path:
    from fleven.app.model import build, weights_of
    from fleven.app.server import bundle
    from fleven.app.settings import parse
    from fleven.app.trips.windows import Scaler

    settings = parse({})
    bundle.save(
        folder / "model.safetensors", weights_of(build(settings)), Scaler(np.zeros(4), np.ones(4)), settings, {}
    )
    return folder / "model.safetensors"


def measure(model: Path, readings: int) -> tuple[list[float], float]:
    """Return the seconds from each line written to its answer read, and the peak memory in MB."""
    command = [sys.executable, "-m", "fleven.cli", "predict", "--follow", "--model", str(model)]
    taken: list[float] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for second in range(readings + 100):
            row = {
                "time_sec": second,
                "engine_rpm": 2000 + second % 50,
                "mass_air_flow": 20,
                "calculated_load_value": 40,
            }
            line = json.dumps(row) + "\n"
            started = time.perf_counter()
            process.stdin.write(line)
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            if second >= 100:
                assert answer["predicted"] is not None, answer
                taken.append(time.perf_counter() - started)
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.stdin.close()
    peak_kilobytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return taken, peak_kilobytes / 1000


if __name__ == "__main__":
    sys.exit(main())
