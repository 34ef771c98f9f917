"""Writing a small file so that a reader, or a power cut, finds the old content or the new. Standard library only."""

import json
import os
from pathlib import Path


def write_private(path: Path, content: object) -> None:
    """Replace ``path`` by ``content`` as JSON, readable for its owner alone; raises ``OSError``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
