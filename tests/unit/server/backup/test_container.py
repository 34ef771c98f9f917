"""Members in a stream: what `tar` would do for a stranger's file, this reader does not."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven.server.backup import container
from fleven.server.backup.contents import BackupError


def written(*members: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    for name, content in members:
        container.write_member(out, name, io.BytesIO(content), len(content))
    container.write_end(out)
    return out.getvalue()


def read(content: bytes) -> list[tuple[str, bytes]]:
    stream, found = io.BytesIO(content), []
    while (header := container.read_header(stream)) is not None:
        taken = bytearray()
        container.read_member(stream, header, taken.extend)
        found.append((header.name, bytes(taken)))
    container.read_end(stream)
    return found


@given(st.lists(st.tuples(st.from_regex(r"\A[a-z]{1,20}(/[a-z.]{1,20})?\Z"), st.binary(max_size=2000)), max_size=4))
def test_what_is_written_is_read_by_us_and_by_tar(members: list[tuple[str, bytes]]) -> None:
    content = written(*members)
    assert read(content) == members
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert [(one.name, one.size) for one in archive] == [(name, len(data)) for name, data in members]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE]
)
def test_what_is_not_a_plain_file_ends_the_reading(kind: bytes) -> None:
    entry = tarfile.TarInfo("trust/ca.key")
    entry.type, entry.linkname = kind, "/etc/shadow"
    with pytest.raises(BackupError, match="not a plain file"):
        container.read_header(io.BytesIO(entry.tobuf(tarfile.USTAR_FORMAT)))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_extensions_are_not_followed(form: int) -> None:
    """A long name comes in a header of its own, of any size, before a reader could look at the real one."""
    entry = tarfile.TarInfo("a" * 300)
    with pytest.raises(BackupError, match="not a plain file"):
        container.read_header(io.BytesIO(entry.tobuf(form)))


def test_a_stream_that_is_cut_off_is_told() -> None:
    whole = written(("register.db", b"x" * 1000))
    for length in (0, 100, 511, 600, 1511):
        with pytest.raises(BackupError, match="cut off"):
            read(whole[:length])


def test_nothing_may_follow_the_end() -> None:
    with pytest.raises(BackupError, match="follows its end"):
        read(written(("register.db", b"x")) + b"more")
    with pytest.raises(BackupError, match="follows its end"):
        read(written(("register.db", b"x")) + bytes(20_000))


def test_a_file_that_grows_or_shrinks_meanwhile_is_told() -> None:
    with pytest.raises(BackupError, match="grown"):
        container.write_member(io.BytesIO(), "a", io.BytesIO(b"12345"), 4)
    with pytest.raises(BackupError, match="cut off"):
        container.write_member(io.BytesIO(), "a", io.BytesIO(b"123"), 4)
