"""Write debian/copyright of a package: the project's own part, and every bundled distribution with its licence texts.

Why it exists: a package that bundles some sixty distributions must carry all their copyright notices, and a list kept
by hand would be wrong after the next lock. Everything comes from the wheels' own metadata and licence files.
Standard library only.
"""

from __future__ import annotations

import csv
import hashlib
import re
from email.parser import HeaderParser
from pathlib import Path

LICENCE_FILES = re.compile(r"(licen[cs]e|copying|notice|authors)", re.IGNORECASE)
COPYRIGHT_LINE = re.compile(r"^\W*((?:copyright|\(c\)|©).*\d{4}.*?)\s*$", re.IGNORECASE | re.MULTILINE)
HEADER = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: fleven
Comment:
 Everything below /usr/lib/fleven that is not listed as fleven's own is bundled
 from the Python distributions named here. They were changed in this way:
 files that never run are left out (packaging/prune.toml), first lines (#!) of
 modules that are no programs are taken off, and libraries are stripped of
 symbols. Licence texts are the ones that each of them ships.

Files: *
Copyright: The FLEVEn developers
License: Apache-2.0

License: Apache-2.0
 On Debian systems the full text of the Apache License, Version 2.0 is in
 /usr/share/common-licenses/Apache-2.0.
"""


def indent(text: str) -> str:
    """Text as the continuation lines of a field: an empty line is a dot."""
    return "\n".join(f" {line}".rstrip() if line.strip() else " ." for line in text.strip().splitlines())


def top_levels(dist_info: Path) -> list[str]:
    """Names in site-packages that belong to a distribution, from its RECORD."""
    with (dist_info / "RECORD").open(newline="", encoding="utf-8") as file:
        paths = [row[0] for row in csv.reader(file) if row]
    names = {path.split("/")[0] for path in paths if not path.startswith("../")}
    return sorted(name for name in names if name not in {"bin", "share", "__pycache__"})


def licence_texts(dist_info: Path) -> list[str]:
    """All licence texts of a distribution, in its dist-info or where some older wheels put them."""
    files = [path for path in sorted(dist_info.rglob("*")) if path.is_file() and LICENCE_FILES.search(path.name)]
    return [path.read_text(encoding="utf-8", errors="replace") for path in files]


def licence_name(metadata_text: str) -> str:
    """Short name: the declared SPDX expression, else the licence field or classifier, as one word."""
    metadata = HeaderParser().parsestr(metadata_text)
    classifiers = [c.split(" :: ")[-1] for c in metadata.get_all("Classifier", []) if c.startswith("License ::")]
    name = metadata.get("License-Expression") or (metadata.get("License") or "").strip().split("\n")[0]
    if not name or len(name) > 60:
        name = classifiers[0] if classifiers else "see-text"
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", name).strip("-")


def without_text(name: str) -> str:
    """What stands for the licence text of a distribution that ships none."""
    if name == "Apache-2.0":
        return "The full text is in /usr/share/common-licenses/Apache-2.0."
    return f"Declared as {name}; no text is shipped."


def paragraph(dist_info: Path, prefix: str, seen: dict[str, str]) -> str:
    """The paragraph of one distribution; a licence text that came before is referred to by its name.

    Args:
        dist_info: its metadata folder, before pruning.
        prefix: where the package puts site-packages, without a leading slash.
        seen: digest of a text to the licence name under which it stands; extended.
    """
    metadata_text = (dist_info / "METADATA").read_text(encoding="utf-8")
    metadata = HeaderParser().parsestr(metadata_text)
    text = "\n\n".join(licence_texts(dist_info)) or without_text(licence_name(metadata_text))
    notices = sorted({" ".join(line.split()) for line in COPYRIGHT_LINE.findall(text)})
    author = metadata.get("Author") or metadata.get("Author-email") or f"the {metadata['Name']} authors"
    folders = [name if "." in name and "-" not in name else f"{name}*" for name in top_levels(dist_info)]
    files = "\n".join(f" {prefix}/{folder}" for folder in folders)
    digest = hashlib.sha256(text.encode()).hexdigest()
    name = seen.get(digest)
    licence = f"License: {name}"
    if name is None:
        name = seen[digest] = f"{licence_name(metadata_text)}-of-{metadata['Name']}"
        licence = f"License: {name}\n{indent(text)}"
    notice = "\n".join(f" {line}" for line in (notices or [" ".join(author.split())]))
    return f"Files:\n{files}\nCopyright:\n{notice}\nComment: {metadata['Name']} {metadata['Version']}\n{licence}\n"


def write_copyright(site: Path, prefix: str, destination: Path) -> int:
    """Write the file and return how many distributions it covers.

    Raises:
        FileNotFoundError: a distribution has no METADATA or RECORD: site-packages is pruned already.
    """
    seen: dict[str, str] = {}
    infos = [info for info in sorted(site.glob("*.dist-info")) if not info.name.startswith("fleven-")]
    parts = [HEADER, *(paragraph(info, prefix, seen) for info in infos)]
    destination.write_text("\n".join(parts), encoding="utf-8")
    return len(infos)
