"""What a backup holds: its list of contents, the names that may stand in it, and their bounds.

A backup comes from outside, so nothing is taken from it that is not named here. Pure; must not read or write files.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from fleven.server.errors import ServerError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
REGISTER, SUPERLINK = "register.db", "superlink.db"
LARGEST_MANIFEST_BYTES = 8_000_000
LARGEST_TOTAL_BYTES = 64 * 2**30
MOST_MEMBERS = 20_000
TRUST_FILES = (
    "ca.key",
    "ca-next.key",
    "ca.crt",
    "ca-cross.crt",
    "server.key",
    "server.crt",
    "authority.json",
)
CERTIFICATES = {
    "superlink-certificate": ("superlink", "certificate"),
    "superlink-private-key": ("superlink", "private-key"),
    "superlink-root-certificates": ("superlink", "root-certificates"),
    "web-certificate": ("web", "certificate"),
    "web-private-key": ("web", "private-key"),
}
"""Files of the operator's own that server.toml may name: table and key of each."""
# name → most bytes. One header of a tar file takes 8 GiB at most.
BOUNDS = (
    (re.compile(r"register\.db|superlink\.db"), 8 * 2**30 - 1),
    (re.compile(rf"trust/({'|'.join(map(re.escape, TRUST_FILES))})"), 100_000),
    (re.compile(rf"certificates/({'|'.join(CERTIFICATES)})\.pem"), 1_000_000),
    (re.compile(r"config/server\.toml(\.d/[A-Za-z0-9_][A-Za-z0-9._-]{0,90}\.toml)?"), 1_000_000),
    (re.compile(r"models/[A-Za-z0-9][A-Za-z0-9._-]{0,99}/v\d{6,12}-[0-9a-f]{12}\.safetensors"), 2 * 2**30),
)
SECRET_PARTS = ("trust/", "certificates/", SUPERLINK)
"""What a backup without keys leaves out."""


class BackupError(ServerError):
    """A backup could not be made, or the file is none that can be restored; nothing was changed."""

    code = "backup-unusable"


def largest(name: str) -> int | None:
    """Return how many bytes a member may have; None for a name that no backup holds."""
    return next((most for pattern, most in BOUNDS if pattern.fullmatch(name)), None)


Text = Annotated[str, StringConstraints(max_length=300)]


class Strict(BaseModel):
    """Base of the list of contents: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Member(Strict):
    """One file of a backup."""

    name: Text
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _known(self) -> Member:
        most = largest(self.name)
        if most is None:
            raise ValueError(f"no backup holds {self.name!r}")
        if self.size > most:
            raise ValueError(f"{self.name} has {self.size} bytes, more than {most}")
        return self


class Manifest(Strict):
    """The list of contents, the first member of every backup.

    Attributes:
        schema_version: of this form.
        created_at: when it was made.
        fleven_version: by which version.
        flower_version: beside which Flower; decides who can read the SuperLink's database.
        host: name of the machine.
        with_keys: whether the fleet would believe a server that has it.
        fingerprint: of the authority that the cars believe; None before the server's first start.
        reached_at: names and addresses by which cars could reach the server.
        fleet_port: where SuperNodes connect.
        web_port: where agents report.
        cars: how many are enrolled.
        left_out: what is not in it and why, for people.
        members: all other members, in their order.
    """

    schema_version: Literal[1]
    created_at: datetime
    fleven_version: Text
    flower_version: Text
    host: Text
    with_keys: bool
    fingerprint: str | None = Field(pattern="^[0-9a-f]{64}$")
    reached_at: list[Text] = Field(max_length=200)
    fleet_port: int = Field(ge=1, le=65535)
    web_port: int = Field(ge=1, le=65535)
    cars: int = Field(ge=0)
    left_out: list[Text] = Field(max_length=100)
    members: list[Member] = Field(max_length=MOST_MEMBERS)

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        names = [member.name for member in self.members]
        if len(set(names)) < len(names):
            raise ValueError("a name appears in it twice")
        if REGISTER not in names:
            raise ValueError("the register is missing")
        if self.total_bytes > LARGEST_TOTAL_BYTES:
            raise ValueError(f"it has {self.total_bytes} bytes unpacked, more than {LARGEST_TOTAL_BYTES}")
        has_keys = {"trust/ca.key", "trust/ca.crt"} <= set(names)
        if self.with_keys and self.fingerprint is not None and not has_keys:
            raise ValueError("the authority's key is missing")
        return self

    @property
    def total_bytes(self) -> int:
        """How many bytes the members have unpacked."""
        return sum(member.size for member in self.members)


def parsed(content: bytes) -> Manifest:
    """Return a list of contents.

    Raises:
        BackupError: it is not valid, or of a later form.
    """
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        problems = error.errors()
        form = next((one["input"] for one in problems if one["loc"] == ("schema_version",)), None)
        if isinstance(form, int):
            text = f"the backup has form {form}, and this version knows form {SCHEMA_VERSION}"
            raise BackupError(text, hint="restore it with a newer fleven-server", code="backup-newer") from None
        first = problems[0]
        where = ".".join(map(str, first["loc"]))
        raise BackupError(f"{MANIFEST}: {where}: {first['msg']}"[:500]) from None
