"""The one line that an invitation is: where the server is, by whom its certificate is signed, and the one-time secret.

`fleven1.` and a compact JSON array in base64url: it survives chats, mails, QR codes and cloud-init, and a double click
selects it whole. Imports the standard library and `common` only.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass, field

from fleven_agent.common import addresses
from fleven_agent.common.errors import EXIT_USAGE, OperatorError

PREFIX = "fleven1."
MAXIMUM_CHARACTERS = 4_096
MAXIMUM_ADDRESSES = 16
_ANY_PREFIX = re.compile(r"^fleven(\d+)\.")
_BLANK = re.compile(r"\s+")
_AGAIN = "copy the whole line that `fleven-server nodes invite` printed"
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_INVITATION = re.compile(r"[0-9a-f]{8}")
_SECRET = re.compile(r"[A-Za-z0-9_-]{16,64}")


class JoinCodeError(OperatorError):
    """What was given is no join code, or a damaged one."""

    code = "join-code-invalid"
    exit_code = EXIT_USAGE


@dataclass(frozen=True, slots=True)
class JoinCode:
    """An invitation as it travels.

    Attributes:
        server_addresses: HOST:PORT of the server's web port, in the order to try.
        ca_fingerprint: SHA-256 over the DER of the server's authority, 64 hexadecimal digits.
        invitation_id: eight hexadecimal digits.
        secret: the one-time secret, base64url; whoever has it can join.
    """

    server_addresses: tuple[str, ...]
    ca_fingerprint: str
    invitation_id: str
    secret: str = field(repr=False)


def encode(code: JoinCode) -> str:
    """Return the line that the car is given."""
    content = [list(code.server_addresses), code.ca_fingerprint, code.invitation_id, code.secret]
    packed = json.dumps(content, separators=(",", ":")).encode()
    return PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode(text: str) -> JoinCode:
    """Read a join code; blanks and line breaks that a terminal or a mail put into it are passed over.

    Raises:
        JoinCodeError: it is none, is cut off or damaged, or of a later version; the message says which.
    """
    given = _BLANK.sub("", text)
    if len(given) > MAXIMUM_CHARACTERS:
        raise JoinCodeError("this is not a join code: it is too long", hint=_AGAIN)
    if not given.startswith(PREFIX):
        later = _ANY_PREFIX.match(given)
        if later:
            message = f"this join code is of version {later[1][:8]}, and this agent reads version 1"
            raise JoinCodeError(message, hint="upgrade fleven-node on this car")
        raise JoinCodeError(f'this is not a join code: it does not begin with "{PREFIX}"', hint=_AGAIN)
    try:
        packed = given.removeprefix(PREFIX).rstrip("=")
        content = json.loads(base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise JoinCodeError("the join code is cut off or damaged", hint=_AGAIN) from None
    return _checked(content)


def _checked(content: object) -> JoinCode:
    if not isinstance(content, list) or len(content) < 4:
        raise JoinCodeError("the join code is damaged: it lacks a part", hint=_AGAIN)
    where, fingerprint, invitation_id, secret = content[:4]
    if not isinstance(where, list) or not 0 < len(where) <= MAXIMUM_ADDRESSES:
        raise JoinCodeError("the join code is damaged: it names no server", hint=_AGAIN)
    for address in where:
        try:
            addresses.split(str(address))
        except ValueError as error:
            raise JoinCodeError(f"the join code is damaged: {error}", hint=_AGAIN) from None
    for value, pattern, what in (
        (fingerprint, _FINGERPRINT, "fingerprint of the server's authority"),
        (invitation_id, _INVITATION, "invitation"),
        (secret, _SECRET, "secret"),
    ):
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise JoinCodeError(f"the join code is damaged: its {what} is not valid", hint=_AGAIN)
    return JoinCode(tuple(str(address) for address in where), fingerprint, invitation_id, secret)
