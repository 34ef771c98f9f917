"""Which app is in each bundle, told by SuperNode to its executor in a small file in ``/run``.

A file, because the executor may be a program of its own, and asks for it once a task. Imports the standard library
only, and light: the agent names the file.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "FLEVEN_APPS_FILE"
"""Names the file in the environment of SuperNode and its executor."""
FILE_NAME = "apps.json"
IDENTITY = re.compile(r"[0-9a-f]{64}")


def write(file: Path, apps: Mapping[str, str]) -> None:
    """Replace the file by the identity of the app in each bundle, by the bundle's hash. Raises ``OSError``."""
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(json.dumps(dict(apps)), encoding="utf-8")
    temporary.replace(file)


def app_of(bundle_hash: str) -> str:
    """Return the identity of the app in a bundle; the bundle's own hash where nothing is told."""
    try:
        found = json.loads(Path(os.environ[VARIABLE]).read_bytes())[bundle_hash]
    except (KeyError, OSError, ValueError, TypeError, RecursionError):
        return bundle_hash
    return found if isinstance(found, str) and IDENTITY.fullmatch(found) else bundle_hash
