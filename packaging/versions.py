#!/usr/bin/env python3
"""Print the version that pyproject.toml, both packages' __version__, debian/changelog and CHANGELOG.md agree on.

Why it exists: a package whose parts tell different versions cannot be supported. The build and a test both run this.
Standard library only; imports nothing of fleven, only reads it.
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PATTERNS = {
    "fleven/__init__.py": r'^__version__ = "([^"]+)"',
    "fleven_agent/__init__.py": r'^__version__ = "([^"]+)"',
    "packaging/debian/changelog": r"\Afleven \(([^)]+)\)",
    "CHANGELOG.md": r"^## ([0-9][^ \n]*)",
}


def versions(project: Path) -> dict[str, str]:
    """Version by file; "none" where a file names none."""
    found = {"pyproject.toml": tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"]}
    for name, pattern in PATTERNS.items():
        match = re.search(pattern, (project / name).read_text(), re.MULTILINE)
        found[name] = match.group(1) if match else "none"
    return found


def main() -> int:
    found = versions(PROJECT)
    if len(set(found.values())) > 1:
        lines = [f"  {name}: {version}" for name, version in found.items()]
        print("build-deb: the versions differ (make them equal):", *lines, sep="\n", file=sys.stderr)
        return 1
    print(found["pyproject.toml"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
