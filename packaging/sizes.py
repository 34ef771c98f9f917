#!/usr/bin/env python3
"""Write docs/sizes.md: how large the packages are, against what pip fetches and installs for the same machine.

Why it exists: "small" is a claim that a script has to measure. What pip would do is resolved for the target by uv and
installed into a temporary folder; nothing of it is run.

    packaging/sizes.py FOLDER      FOLDER holds the .deb files (not built with --fast)      needs `uv` on PATH
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lock import TARGETS, Target

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent / "docs/sizes.md"
BY_HAND = ("flwr", "torch", "pandas", "pyarrow")
BUDGET = "fleven-node on arm64 must stay below 160 MB to download and 650 MB installed."


@dataclass(frozen=True)
class Size:
    """Megabytes (10^6 bytes) to download and on the disk."""

    download: float
    installed: float


def of_package(deb: Path) -> Size:
    kibibytes = int(subprocess.check_output(["dpkg-deb", "-f", str(deb), "Installed-Size"], text=True))
    return Size(deb.stat().st_size / 1e6, kibibytes * 1024 / 1e6)


def of_pip(target: Target) -> Size:
    """What `pip install flwr torch pandas pyarrow` fetches and installs on a fresh machine of this kind."""
    with tempfile.TemporaryDirectory() as name:
        lock, site = Path(name) / "pylock.toml", Path(name) / "site"
        common = ["--python-version", target.python, "--python-platform", target.platform, "--quiet"]
        requirements = "\n".join(BY_HAND)
        subprocess.run(
            ["uv", "pip", "compile", "-", *common, "--format", "pylock.toml", "--output-file", str(lock)],
            input=requirements, text=True, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        download = 0
        for package in tomllib.loads(lock.read_text())["packages"]:
            download += best_wheel(package)
        command = [
            "uv",
            "pip",
            "install",
            *common,
            "--target",
            str(site),
            "--only-binary",
            ":all:",
            "--requirements",
            "-",
        ]
        subprocess.run(command, input=requirements, text=True, check=True)
        used = sum(path.lstat().st_blocks * 512 for path in site.rglob("*"))
    return Size(download / 1e6, used / 1e6)


def best_wheel(package: dict[str, Any]) -> int:
    """Bytes of the file that pip would take: the largest of those that fit, which differ little."""
    files = package.get("wheels") or [package["sdist"]]
    return max(int(file.get("size", 0)) for file in files)


def main() -> int:
    os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")
    lines = [
        "# How large the packages are", "",
        "Megabytes (10^6 bytes). *By hand* is `pip install " + " ".join(BY_HAND) + "` on a fresh machine of the",
        "same kind. Byte-compiled files come on top of each, at the installation or the first start.", BUDGET, "",
        "| package | suite | architecture | download | installed | by hand: download | by hand: installed |",
        "|---|---|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    by_hand: dict[str, Size] = {}
    for deb in sorted(Path(sys.argv[1]).glob("fleven-*.deb")):
        match = re.fullmatch(r"(fleven-\w+)_.*\+(deb1\d)_(\w+)\.deb", deb.name)
        if match is None:
            continue
        suite = {"deb12": "bookworm", "deb13": "trixie"}[match[2]]
        target = next(t for t in TARGETS if (t.suite, t.architecture) == (suite, match[3]))
        if target.name not in by_hand:
            by_hand[target.name] = of_pip(target)
        size, other = of_package(deb), by_hand[target.name]
        lines.append(
            f"| {match[1]} | {suite} | {match[3]} | {size.download:.0f} | {size.installed:.0f} "
            f"| {other.download:.0f} | {other.installed:.0f} |"
        )
    lines += ["", "Written by `packaging/sizes.py`."]
    OUTPUT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
