"""What one machine has compiled of a package, the others need not: it takes a processor a quarter of a minute.

At the first installation of a package in a test session, its maintainer script compiles it, as anywhere. For the same
files on another machine, or after an upgrade, the result is put back first, and the script's own compiler then looks at
each file (it compares time and size, as Python does) and compiles what does not fit. Imports nothing of fleven.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from .base import cache_folder

SEEN_AS = "/mnt/compiled"
PROGRAM = "usr/local/bin/py3compile"
APT_PATH = "etc/apt/apt.conf.d/50-test-bed"
"""apt gives maintainer scripts a PATH of its own; on this one our program comes before Debian's."""
SCRIPT = f"""#!/bin/sh
# py3compile -p PACKAGE FOLDER: written by the test bed.
set -eu
[ $# = 3 ] && [ "$1" = -p ] || exec /usr/bin/py3compile "$@"
exec 9>{SEEN_AS}/lock
flock 9
kept={SEEN_AS}/$(md5sum <"/var/lib/dpkg/info/$2.md5sums" | cut -d' ' -f1).tar
if [ -e "$kept" ]; then
    tar -C / -xf "$kept"
    flock -u 9
    exec /usr/bin/py3compile "$@"
fi
/usr/bin/py3compile "$@"
find "$3" -name '*.pyc' -printf '%P\\0' | tar -C "$3" --null -T - --transform "s,^,${{3#/}}/," -cf "$kept.new"
mv "$kept.new" "$kept"
"""


@cache
def shared_folder() -> Path:
    """Return the folder in which this process's machines keep what they have compiled; it goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix="compiled-", dir=cache_folder()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def share(upper: Path) -> None:
    """Let a machine, which is off, use what was compiled; `upper` is the part of its disk that is its own."""
    for file, content in (
        (PROGRAM, SCRIPT),
        (APT_PATH, 'DPkg::Path "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";\n'),
    ):
        (upper / file).parent.mkdir(parents=True, exist_ok=True)
        (upper / file).write_text(content)
    (upper / PROGRAM).chmod(0o755)
