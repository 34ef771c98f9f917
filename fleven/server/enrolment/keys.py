"""Public keys: read, told apart by a short fingerprint, their signatures checked.

The one place of the enrolment that needs X.509's library; it is imported when the first key comes. Must not import the
store or FastAPI.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from fleven.server.enrolment.model import EnrolmentError
from fleven_agent.protocol.identity import Refusal

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

MAXIMUM_KEY_FILE_BYTES = 4_096
HINT = "an ECDSA key on a NIST curve: ssh-keygen -t ecdsa -b 384 -N '' -f node.key"


def _loaded(public_key: str) -> EllipticCurvePublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        key = load_ssh_public_key(public_key.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise EnrolmentError(Refusal.KEY_REFUSED, "the public key cannot be read", hint=HINT) from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise EnrolmentError(Refusal.KEY_REFUSED, "the public key is not an ECDSA key", hint=HINT)
    return key


def check_proof(public_key: str, signed: bytes, proof: str) -> None:
    """Check that whoever sent a request has the private half of its key.

    Args:
        public_key: OpenSSH line.
        signed: what was signed (ECDSA with SHA-256).
        proof: the signature, DER in base64.

    Raises:
        EnrolmentError: the key cannot be used, or the signature is not by it.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    key = _loaded(public_key)
    try:
        key.verify(base64.b64decode(proof, validate=True), signed, ECDSA(SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):
        hint = "the request was changed on its way, or the key in the identity folder is not the one that signed it"
        raise EnrolmentError(Refusal.PROOF_INVALID, "the proof is not by this key", hint=hint) from None


def flower_form(public_key: str) -> bytes:
    """Return a key as Flower keeps it: PEM of its SubjectPublicKeyInfo."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return _loaded(public_key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def canonical(text: str) -> str:
    """Return the one line under which a key is known: OpenSSH without a comment.

    Args:
        text: content of a file with an OpenSSH or a PEM public key.

    Raises:
        EnrolmentError: it is no such key.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    if text.lstrip().startswith("-----BEGIN PUBLIC KEY"):
        try:
            loaded = load_pem_public_key(text.strip().encode())
        except ValueError:
            raise EnrolmentError(Refusal.KEY_REFUSED, "the public key cannot be read", hint=HINT) from None
        if not isinstance(loaded, ec.EllipticCurvePublicKey):
            raise EnrolmentError(Refusal.KEY_REFUSED, "the public key is not an ECDSA key", hint=HINT)
        key = loaded
    else:
        if "PRIVATE KEY" in text:
            raise EnrolmentError(Refusal.KEY_REFUSED, "this is a private key: give the file that ends in .pub")
        key = _loaded(text.strip())
    if key.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise EnrolmentError(Refusal.KEY_REFUSED, f"the curve {key.curve.name} is not supported", hint=HINT)
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def read_key_file(file: Path) -> str:
    """Return the key of a file in its one form.

    Raises:
        EnrolmentError: the file cannot be read, or holds no such key.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MAXIMUM_KEY_FILE_BYTES)
        return canonical(content.decode())
    except OSError as error:
        raise EnrolmentError(Refusal.KEY_REFUSED, f"{file}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise EnrolmentError(Refusal.KEY_REFUSED, f"{file}: is not a text file", hint=HINT) from None


def fingerprint(public_key: str) -> str:
    """Return what people compare, as `ssh-keygen -l` prints it: `SHA256:` and the digest in base64."""
    blob = base64.b64decode(public_key.split()[1] + "==")
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
