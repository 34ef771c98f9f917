"""Which modules a task may find loaded, and the file that remembers what tasks imported.

Never anything of an app: neither ``fleven`` nor a file under FLWR_HOME, so that a task always runs the code of its own
bundle. Imports the standard library only.
"""

import json
import os
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from fleven_agent.warm.files import write_private

FORBIDDEN_PACKAGES = frozenset({"fleven", "fleven_agent", "__main__", "__mp_main__"})
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


def installed_folders() -> tuple[str, ...]:
    """Return the folders of Python's own and of installed modules, each ending with a slash."""
    paths = sysconfig.get_paths()
    return tuple({os.path.realpath(paths[key]) + os.sep for key in ("stdlib", "platstdlib", "purelib", "platlib")})


def is_shareable(name: str, module: ModuleType | None, installed: tuple[str, ...]) -> bool:
    """Say whether the warm process may import ``name``: built in, or installed beside Python, and no part of an app."""
    if name.partition(".")[0] in FORBIDDEN_PACKAGES or module is None:
        return False
    spec = getattr(module, "__spec__", None)
    if spec is None or spec.name != name:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    places = [spec.origin] if spec.origin is not None else list(spec.submodule_search_locations or [])
    return bool(places) and all(os.path.realpath(place).startswith(installed) for place in places)


def shareable_modules(names: Iterable[str]) -> list[str]:
    """Return those of the loaded modules ``names`` that another task may find loaded."""
    installed = installed_folders()
    return [name for name in names if is_shareable(name, sys.modules.get(name), installed)]


def app_modules(names: Iterable[str]) -> list[str]:
    """Return those of the loaded modules ``names`` that belong to an app: ``fleven``, or a file under FLWR_HOME."""
    home = os.path.abspath(os.environ.get("FLWR_HOME") or Path.home() / ".flwr")  # noqa: PTH100 - links stay as they are
    folders = (home + os.sep, os.path.realpath(home) + os.sep)
    found = []
    for name in names:
        origin = getattr(getattr(sys.modules.get(name), "__spec__", None), "origin", None)
        if name.partition(".")[0] == "fleven" or (origin is not None and origin.startswith(folders)):
            found.append(name)
    return found
