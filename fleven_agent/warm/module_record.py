"""What tasks have imported, kept on disk so that the next warm process imports it before. Standard library only."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from fleven_agent.common.files import write_private

MAXIMUM_MODULES = 4_000
SCHEMA_VERSION = 1


class ModuleRecord:
    """The file that tells what tasks imported besides the defaults, the latest first, and what must be left out."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[list[str], dict[str, str]]:
        """Return (modules, left out: why); empty for another Python or a broken file."""
        try:
            content = json.loads(self.path.read_bytes())
            if content["schema_version"] != SCHEMA_VERSION or content["python"] != sys.version:
                return [], {}
            modules = [name for name in content["modules"] if isinstance(name, str)]
            return modules[:MAXIMUM_MODULES], {str(name): str(why) for name, why in content["left_out"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return [], {}

    def write(self, modules: Iterable[str], left_out: dict[str, str]) -> None:
        """Replace the file; raises ``OSError``."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "python": sys.version,
            "modules": list(modules),
            "left_out": left_out,
        }
        write_private(self.path, content)

    def add(self, modules: Iterable[str]) -> None:
        """Put ``modules`` that the file does not have yet before the others; raises ``OSError``."""
        known, left_out = self.read()
        new = [name for name in modules if name not in known and name not in left_out]
        if new:
            self.write([*new, *known][:MAXIMUM_MODULES], left_out)
