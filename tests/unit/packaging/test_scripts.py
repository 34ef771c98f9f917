"""Decisions of the build: versions that agree, libraries that may be stripped, man pages that tell every key."""

import hashlib
import os
import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest

Load = Callable[[str], ModuleType]


def test_all_places_tell_one_version(load: Load, project: Path) -> None:
    found = load("versions").versions(project)
    assert len(found) == 5
    assert len(set(found.values())) == 1, found


def test_a_version_that_differs_is_seen(load: Load, project: Path, tmp_path: Path) -> None:
    for name in ("pyproject.toml", *load("versions").PATTERNS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((project / name).read_text())
    (tmp_path / "fleven/__init__.py").write_text('__version__ = "9.9.9"\n')
    found = load("versions").versions(tmp_path)
    assert found["fleven/__init__.py"] == "9.9.9"
    assert found["pyproject.toml"] != "9.9.9"


def library(segments: list[tuple[int, int, bytes]], tail: bytes = b"") -> bytes:
    """An ELF file of loadable segments (address, alignment, content) whose contents follow the headers."""
    headers_end = 64 + 56 * len(segments)
    offset, table, contents = headers_end, b"", b""
    for address, alignment, content in segments:
        padding = (address - offset) % alignment
        contents += bytes(padding) + content
        offset += padding
        table += struct.pack("<IIQQQQQQ", 1, 5, offset, address, address, len(content), len(content), alignment)
        offset += len(content)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    return header + table + contents + tail


def test_losing_what_is_never_loaded_is_safe(load: Load) -> None:
    segments = [(0x1000, 0x10, b"code" * 9), (0x2000, 0x10, b"data" * 9)]
    assert load("strip").loads_the_same(library(segments, b"symbols"), library(segments))


@pytest.mark.parametrize(
    "after",
    [
        library([(0x1000, 0x10, b"coda" * 9), (0x2000, 0x10, b"data" * 9)]),
        library([(0x1000, 0x10, b"code" * 9)]),
        library([(0x1008, 0x10, b"code" * 9), (0x2000, 0x10, b"data" * 9)]),
        b"no library at all",
        b"\x7fELF\x02\x01",
    ],
    ids=["other code", "a segment less", "another address", "not ELF", "cut off"],
)
def test_anything_else_is_not(load: Load, after: bytes) -> None:
    before = library([(0x1000, 0x10, b"code" * 9), (0x2000, 0x10, b"data" * 9)])
    assert not load("strip").loads_the_same(before, after)


def test_a_segment_that_the_loader_would_refuse_is_not_safe(load: Load) -> None:
    before = library([(0x1000, 0x1000, b"code" * 9)])
    moved = bytearray(before)
    offset = struct.unpack_from("<Q", moved, 64 + 8)[0]
    struct.pack_into("<Q", moved, 64 + 8, offset + 8)  # p_offset no longer agrees with p_vaddr
    moved[offset:offset] = bytes(8)
    assert not load("strip").loads_the_same(before, bytes(moved))


@pytest.mark.parametrize("role", ["node", "server"])
def test_the_man_page_tells_every_key_of_the_configuration_file(load: Load, project: Path, role: str) -> None:
    text = (project / f"etc/fleven/{role}.toml").read_text()
    page = load("man_keys").section(text)
    for key in re.findall(r"^#\s?([a-z][a-z0-9-]*) = ", text, re.MULTILINE):
        assert f"**{key}** = " in page
    for table in re.findall(r"^\[([a-z.-]+)\]", text, re.MULTILINE):
        assert f"[{table}]\n" in page


def test_the_node_file_tells_every_key_that_the_agent_knows(project: Path) -> None:
    from fleven_agent.config.settings import keys

    text = (project / "etc/fleven/node.toml").read_text()
    found, table = set(), ""
    for line in text.splitlines():
        if match := re.match(r"^\[([a-z.-]+)\]", line):
            table = f"{match[1]}."
        elif match := re.match(r"^#([a-z][a-z0-9-]*) = ", line):
            found.add(table + match[1])
    assert found == set(keys())


OTHER_EXAMPLES = {'report-url = "http://100.64.0.1:9190"', "supernode-authentication = false"}
"""What the first release's files show and the complete ones show otherwise: examples of values, and the one default
that has become safer; server.toml(5) says so."""


@pytest.mark.parametrize(
    ("name", "checksum"),
    [
        ("node.toml", "e1f0ec1e358ef98cf387ad3f7077cc51466c3f5e7e9a6e1371f66efdec1eb003"),
        ("server.toml", "a69f61f688021a8eab527ac121916d950753136e172c406159429e8ca737a88e"),
    ],
)
def test_what_is_installed_in_etc_is_what_the_first_release_installed(project: Path, name: str, checksum: str) -> None:
    """Another text makes dpkg ask each operator a question, and ends an upgrade that nobody watches."""
    shipped = (project / "packaging/conffiles" / name).read_bytes()
    assert hashlib.sha256(shipped).hexdigest() == checksum
    key = re.compile(r"^# ?([a-z][a-z0-9-]* = .+)$", re.MULTILINE)
    complete = (project / "etc/fleven" / name).read_text(encoding="utf-8")
    gone = set(key.findall(shipped.decode())) - set(key.findall(complete)) - OTHER_EXAMPLES
    assert gone == set(), "a default that is no longer so"


def test_the_man_page_tells_every_command_of_the_agent(project: Path) -> None:
    from fleven_agent.cli.arguments import parser

    page = (project / "packaging/man/fleven-agent.8.rst").read_text()
    [commands] = [action.choices for action in parser()._actions if action.dest == "command"]
    assert commands is not None
    for command in commands:
        assert re.search(rf"\*\*{command}\b", page), command


@pytest.mark.parametrize(
    ("text", "configured"),
    [
        ("", False),
        ("#partition-id = 0\n# superlink = 'x'\n", False),
        ("node-name = 'car'\n", False),
        ("partition-id = 0\n", True),
        ('  "superlink" = "100.64.0.1:9092"\n', True),
    ],
)
@pytest.mark.parametrize("place", ["node.toml", "node.toml.d/10-mine.toml"])
def test_a_node_counts_as_configured_when_a_required_key_is_set(
    project: Path, tmp_path: Path, text: str, configured: bool, place: str
) -> None:
    script = (project / "systemd/configured").read_text()
    assert script.count("/etc/fleven/node.toml") == 3  # two places, and what it says
    (tmp_path / "node.toml.d").mkdir()
    (tmp_path / place).write_text(text)
    answer = subprocess.run(
        ["sh", "-c", script.replace("/etc/fleven", str(tmp_path))], capture_output=True, text=True, check=False
    )
    assert answer.returncode == (0 if configured else 1)
    assert ("systemctl start fleven-agent" in answer.stderr) is not configured


def test_a_drop_in_folder_that_cannot_be_read_is_for_the_agent_to_complain_of(project: Path) -> None:
    # Not in pytest's folder, which is closed to nobody: root may read everything, so the script runs as nobody then.
    with TemporaryDirectory() as name:
        folder = Path(name) / "node.toml.d"
        folder.mkdir(mode=0o700)
        (folder / "10-fleet.toml").write_text("partition-id = 0\n")
        folder.chmod(0)
        Path(name).chmod(0o755)
        script = (project / "systemd/configured").read_text().replace("/etc/fleven", name)
        user = 65534 if os.geteuid() == 0 else None
        answer = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, user=user)
        folder.chmod(0o700)
    assert (answer.returncode, answer.stderr) == (0, "")
