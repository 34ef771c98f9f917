"""The folder of a car's identity: node.key, node.pub, ca.crt and identity.json, each whole or not there.

identity.json is written last and is what counts: it names the key by its fingerprint. A new key lies in a folder of its
own beside until identity.json names it, so that a power cut at any point leaves one identity that holds together.
Commands of root and the daemon write here at the same time: both hold ``lock``. Imports ``common.files`` and the model.
"""

import base64
import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from fleven_agent.common.files import write_atomically
from fleven_agent.identity.model import Identity, decode, encode
from fleven_agent.system.log import LOGGER, event

FOLDER = "identity"
NEXT = "next"
"""Below the folder: the key that is to take the place of the present one."""


def key_fingerprint(public_key: str) -> str:
    """Return a public key's fingerprint as OpenSSH shows it: ``SHA256:...``.

    Raises:
        ValueError: it is no public key of OpenSSH.
    """
    parts = public_key.split()
    if len(parts) < 2:
        raise ValueError("not a public key of OpenSSH")
    digest = hashlib.sha256(base64.b64decode(parts[1], validate=True)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


class IdentityFolder:
    """The files of one car's identity.

    Args:
        state_directory: the agent's state folder.
    """

    def __init__(self, state_directory: Path) -> None:
        self.path = state_directory / FOLDER
        self.key = self.path / "node.key"
        self.authority = self.path / "ca.crt"
        self.next_key = self.path / NEXT / "node.key"
        self._file = self.path / "identity.json"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from changing the identity; makes the folder.

        Raises:
            OSError: the folder cannot be used.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _give_to_owner_of_parent(self.path)
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.geteuid() == 0:
                owner = self.path.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def load(self) -> Identity | None:
        """Return the identity; None when there is none. One that cannot be used is set aside.

        Raises:
            OSError: it cannot be read.
        """
        try:
            found = decode(self._file.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            LOGGER.warning(event("the identity cannot be used and is set aside", file=self._file, detail=error))
            with contextlib.suppress(OSError):
                self._file.replace(self._file.with_name(f"{self._file.name}.unusable"))
            return None
        self._finish_change(found)
        return found

    def peek(self) -> Identity | None:
        """Return the identity without touching a file; None when there is none that can be used.

        Raises:
            OSError: this user may not read it.
        """
        try:
            return decode(self._file.read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return None

    def _finish_change(self, found: Identity) -> None:
        """Put the new key in its place where a power cut came between the two steps of ``take_next_key``."""
        with contextlib.suppress(OSError, ValueError):
            if self.fingerprint_of(self.key) != found.key_fingerprint == self.fingerprint_of(self.next_key):
                self._move_next_key()

    @staticmethod
    def fingerprint_of(key: Path) -> str:
        """Return the fingerprint of the public key beside a private one; empty when there is none."""
        try:
            return key_fingerprint(key.with_suffix(".pub").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return ""

    def save(self, identity: Identity) -> None:
        """Write identity.json.

        Raises:
            OSError: it cannot be written.
        """
        write_atomically(self._file, encode(identity))

    def take_next_key(self, identity: Identity) -> None:
        """Make the new key the present one, together with the identity that names it.

        Raises:
            OSError: it cannot be written.
        """
        self.save(identity)
        self._move_next_key()

    def _move_next_key(self) -> None:
        for name in ("node.key", "node.pub"):
            with contextlib.suppress(FileNotFoundError):  # moved before a power cut
                self.next_key.with_name(name).replace(self.path / name)
        self.drop_next_key()

    def drop_next_key(self) -> None:
        """Forget a new key that was not taken."""
        with contextlib.suppress(OSError):
            for file in list(self.next_key.parent.iterdir()):
                file.unlink()
            self.next_key.parent.rmdir()

    def forget_key(self) -> None:
        """Remove key and identity, so that the next one begins again; whom this car trusts stays.

        Raises:
            OSError: they cannot be removed.
        """
        self.drop_next_key()
        for file in (self._file, self.key, self.key.with_suffix(".pub")):
            file.unlink(missing_ok=True)

    def write_authority(self, bundle: str) -> None:
        """Write ca.crt.

        Raises:
            OSError: it cannot be written.
        """
        write_atomically(self.authority, bundle.encode())

    def read_authority(self) -> str:
        """Return ca.crt; empty when there is none."""
        try:
            return self.authority.read_text(encoding="ascii")
        except (OSError, ValueError):
            return ""


def _give_to_owner_of_parent(folder: Path) -> None:
    """Let the daemon's user have a folder that root has made in its state folder."""
    if os.geteuid() == 0:
        owner = folder.parent.stat()
        os.chown(folder, owner.st_uid, owner.st_gid, follow_symlinks=False)
