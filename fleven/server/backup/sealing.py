"""Encrypting a stream for somebody and opening it again: age by its library, OpenPGP by the `gpg` command.

Nothing here is cryptography of our own. age's passphrase form exists for short texts only, so a backup with a
passphrase is an age file for a key made for it alone, beside that key sealed with the passphrase; both in a tar, which
`tar` and `age` open without us. Must not know what is in the stream.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Any

import pyrage

from fleven.server.backup import container
from fleven.server.backup.contents import BackupError
from fleven.server.config.settings import age_recipient
from fleven.server.errors import UsageError
from fleven_agent.common.foreign_text import printable

WRAPPED_KEY, WRAPPED_BACKUP = "identity.age", "backup.tar.gz.age"
LARGEST_WRAPPED_KEY_BYTES = 10_000
SHORTEST_PASSPHRASE = 12
AGE_MAGIC, GZIP_MAGIC, SQLITE_MAGIC = b"age-encryption.org/", b"\x1f\x8b", b"SQLite format 3\x00"
PGP_ARMOUR = b"-----BEGIN PGP MESSAGE"
LONGEST_GPG_WORDS = 2_000


class Form(StrEnum):
    """How a file is sealed, or that it is an older kind of backup."""

    AGE = "age"
    PASSPHRASE = "passphrase"  # noqa: S105 -- a word, not a secret
    GPG = "gpg"
    CLEAR = "clear"
    REGISTER = "register"
    """A copy of the register alone, as every version has made each night."""


@dataclass(frozen=True, slots=True)
class Seal:
    """For whom a backup is sealed: exactly one of these, or nobody (in the clear).

    Attributes:
        passphrase: opens it.
        recipients: public keys of age, or SSH's.
        gpg: keys that `gpg` knows.
    """

    passphrase: str = ""
    recipients: tuple[str, ...] = ()
    gpg: tuple[str, ...] = ()

    @property
    def form(self) -> Form:
        """The form of the file."""
        if self.passphrase:
            return Form.PASSPHRASE
        if self.recipients:
            return Form.AGE
        return Form.GPG if self.gpg else Form.CLEAR


@dataclass(frozen=True, slots=True)
class Opener:
    """What opens backups.

    Attributes:
        ask_passphrase: finds the passphrase when one is needed.
        identities: contents of files with private keys of age, or SSH's.
    """

    ask_passphrase: Callable[[], str]
    identities: tuple[bytes, ...] = ()


def fresh_key() -> Any:
    """Return a new private key of age."""
    return pyrage.x25519.Identity.generate()


def parsed_recipient(text: str) -> Any:
    """Return a public key as the library takes it.

    Raises:
        UsageError: it is none.
    """
    try:
        return age_recipient(text)
    except ValueError as error:
        raise UsageError(str(error), code="recipient-invalid") from None


def parsed_identities(content: bytes) -> list[Any]:
    """Return the private keys of a file: lines of age's, or one key of SSH's.

    Raises:
        UsageError: there is none.
    """
    lines = [line.strip() for line in content.decode("utf-8", errors="replace").splitlines()]
    try:
        keys = [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith("AGE-SECRET-KEY-")]
        return keys or [pyrage.ssh.Identity.from_buffer(content)]
    except pyrage.IdentityError as error:
        hint = "a file of `age-keygen`, or an SSH private key without passphrase"
        raise UsageError(f"the file of the identity cannot be used: {error}", hint=hint) from None


def form_of(start: bytes) -> Form:
    """Return how a file is sealed, by its first 512 bytes.

    Raises:
        BackupError: it is no backup.
    """
    for magic, form in (
        (AGE_MAGIC, Form.AGE),
        (SQLITE_MAGIC, Form.REGISTER),
        (GZIP_MAGIC, Form.CLEAR),
        (f"{WRAPPED_KEY}\0".encode(), Form.PASSPHRASE),
        (PGP_ARMOUR, Form.GPG),
    ):
        if start.startswith(magic):
            return form
    # RFC 9580, 4.2: bits 7 and 6 set, or the old form; the first packet holds an encrypted session key.
    if start and (start[0] & 0xFC == 0x84 or start[0] in (0xC1, 0xC3)):
        return Form.GPG
    raise BackupError("is not a backup of this server", hint="fleven-server backup makes one")


@contextmanager
def sealed(target: IO[bytes], seal: Seal, witness: Any) -> Iterator[IO[bytes]]:
    """Give a stream to write to; what is written comes sealed into the file `target`, which must be seekable.

    Args:
        target: where it goes.
        seal: for whom.
        witness: a fresh key of age that also opens it, so that the whole file can be read back; it is to be forgotten.

    Raises:
        BackupError: it cannot be sealed.
        OSError: the file cannot be written.
    """
    if seal.form is Form.CLEAR:
        yield target
    elif seal.form is Form.GPG:
        with _gpg_encrypting(target, seal.gpg) as stream:
            yield stream
    elif seal.form is Form.AGE:
        recipients = [*(parsed_recipient(one) for one in seal.recipients), witness.to_public()]
        with _age_encrypting(target, recipients) as stream:
            yield stream
    else:
        wrapped = pyrage.passphrase.encrypt(f"{witness}\n".encode(), seal.passphrase)
        target.write(container.header(WRAPPED_KEY, len(wrapped)))
        target.write(wrapped + bytes(-len(wrapped) % container.BLOCK))
        before = target.tell()
        target.write(container.header(WRAPPED_BACKUP, 0))
        with _age_encrypting(target, [witness.to_public()]) as stream:
            yield stream
        # How long it has become is known only now.
        size = target.tell() - before - container.BLOCK
        target.write(bytes(-size % container.BLOCK))
        container.write_end(target)
        target.seek(before)
        target.write(container.header(WRAPPED_BACKUP, size))


@contextmanager
def opened(source: IO[bytes], form: Form, opener: Opener) -> Iterator[IO[bytes]]:
    """Give the stream that was sealed. It is to be read to its end: only there it is known to be whole.

    Raises:
        BackupError: it is damaged, or sealed for somebody else.
    """
    if form is Form.CLEAR:
        yield source
    elif form is Form.GPG:
        with _gpg_decrypting(source) as stream:
            yield stream
    else:
        keys = [key for one in opener.identities for key in parsed_identities(one)]
        if form is Form.AGE:
            if not keys:
                hint = "give its file: --identity FILE"
                raise UsageError("the backup is sealed for a key", hint=hint, code="key-needed")
            with _age_decrypting(source, keys) as stream:
                yield stream
            return
        key, size = _unwrapped_key(source, opener.ask_passphrase())
        with _age_decrypting(_Part(source, size), [key]) as stream:
            yield stream
        source.read(-size % container.BLOCK)
        container.read_end(source)


def _unwrapped_key(source: IO[bytes], passphrase: str) -> tuple[Any, int]:
    """Return the key inside, and the size of what it opens, which follows."""
    found = container.read_header(source)
    if found is None or found.name != WRAPPED_KEY or found.size > LARGEST_WRAPPED_KEY_BYTES:
        raise BackupError("holds no key that a passphrase opens")
    content = bytearray()
    container.read_member(source, found, content.extend)
    following = container.read_header(source)
    if following is None or following.name != WRAPPED_BACKUP:
        raise BackupError("is cut off")
    try:
        return parsed_identities(pyrage.passphrase.decrypt(bytes(content), passphrase))[0], following.size
    except pyrage.DecryptError as error:
        text = str(error)
        wrong = "Decryption failed" in text or "No matching keys" in text
        raise BackupError("the passphrase is wrong" if wrong else text, code="passphrase-wrong") from None


@contextmanager
def _age_encrypting(target: IO[bytes], recipients: Sequence[Any]) -> Iterator[IO[bytes]]:
    reader, writer = _pipe()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            pyrage.encrypt_io(reader, target, recipients)
        except (pyrage.EncryptError, OSError) as error:
            failed.append(error)
        finally:
            reader.close()

    thread = threading.Thread(target=work, name="seal", daemon=True)
    thread.start()
    try:
        with suppress(BrokenPipeError):  # the other end says why it ended
            yield writer
        with suppress(BrokenPipeError):
            writer.flush()
    finally:
        with suppress(BrokenPipeError):
            writer.close()
        thread.join()
    if failed:
        raise BackupError(f"cannot be written: {failed[0]}")


@contextmanager
def _age_decrypting(source: IO[bytes] | _Part, identities: Sequence[Any]) -> Iterator[IO[bytes]]:
    reader, writer = _pipe()
    failed: list[BaseException] = []
    given_up = threading.Event()

    def work() -> None:
        try:
            pyrage.decrypt_io(source, writer, identities)
        except (pyrage.DecryptError, OSError) as error:
            if not given_up.is_set():
                failed.append(error)
        finally:
            with suppress(BrokenPipeError):
                writer.close()

    thread = threading.Thread(target=work, name="open", daemon=True)
    thread.start()
    problem: BaseException | None = None
    try:
        yield reader
        reader.read(1)  # the end of the stream: what opens it has judged the last piece
    except BaseException as error:
        problem = error
        raise
    finally:
        if problem is not None:
            given_up.set()
        reader.close()
        thread.join()
        if failed:
            # What was read until then ended too early, which is the lesser news.
            text = str(failed[0])
            wrong = "No matching keys" in text
            what = "is sealed for another key" if wrong else f"is damaged: {text}"
            raise BackupError(what, code="key-wrong" if wrong else "") from problem


class _Part:
    """The next bytes of a stream, as many as a header has promised."""

    def __init__(self, source: IO[bytes], size: int) -> None:
        self.source = source
        self.left = size

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; none when all were read."""
        content = self.source.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(content)
        return content


def _pipe() -> tuple[IO[bytes], IO[bytes]]:
    reader, writer = os.pipe()
    return os.fdopen(reader, "rb"), os.fdopen(writer, "wb")


@contextmanager
def _gpg_encrypting(target: IO[bytes], keys: Sequence[str]) -> Iterator[IO[bytes]]:
    named = [word for key in keys for word in ("--recipient", key)]
    with _gpg(["--batch", "--encrypt", *named], stdin=subprocess.PIPE, stdout=target.fileno()) as process:
        assert process.stdin is not None  # noqa: S101 -- told to Popen
        with suppress(BrokenPipeError):
            yield process.stdin
        with suppress(BrokenPipeError):
            process.stdin.close()
    target.seek(0, os.SEEK_END)


@contextmanager
def _gpg_decrypting(source: IO[bytes]) -> Iterator[IO[bytes]]:
    # Not in batch mode: the agent may have to ask for the key's passphrase.
    with _gpg(["--decrypt"], stdin=source.fileno(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 -- told to Popen
        yield process.stdout
        process.stdout.read(1)  # the end of the stream: `gpg` has judged the last piece
        process.stdout.close()


@contextmanager
def _gpg(arguments: list[str], stdin: int, stdout: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run `gpg`, and raise BackupError when it does not end with 0."""
    if shutil.which("gpg") is None:
        raise UsageError("gpg is not installed", hint="apt install gpg", code="gpg-missing")
    command = ["gpg", "--quiet", "--no-tty", "--no-auto-key-locate", *arguments]
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=words)
        problem: BaseException | None = None
        try:
            yield process
        except BaseException as error:
            problem = error
            process.terminate()
            raise
        finally:
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(BrokenPipeError):
                        stream.close()
            ended_early = process.poll() not in (None, 0)
            code = process.wait()
            words.seek(0)
            said = printable(words.read(LONGEST_GPG_WORDS).decode(errors="replace")).strip()
            if (problem is None and code != 0) or (problem is not None and ended_early):
                raise BackupError(f"gpg failed: {said or f'exit code {code}'}", code="gpg-failed") from problem
