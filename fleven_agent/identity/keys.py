"""Makes a car's key and signs with it: the only module of the agent that loads the library for that.

The daemon runs it in a process of its own, ``python -m fleven_agent.identity.keys``, and speaks to it through ``ask``,
so that the library does not stay in its memory. The key is an elliptic curve key in OpenSSH's form, as Flower wants it,
and never leaves the car. Must not import the library at the top: ``ask`` is called in the daemon.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleven_agent.common.files import write_atomically
from fleven_agent.errors import AgentError
from fleven_agent.protocol.identity import enrol_proof, rotate_proof

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

PROCESS_SECONDS = 90.0  # a Pi Zero under load takes its time to start Python
PROOFS: dict[str, Callable[[Mapping[str, object]], bytes]] = {"enrol": enrol_proof, "rotate": rotate_proof}


class KeyProblemError(AgentError):
    """The car's key cannot be made or used."""

    code = "key-unusable"


def ask(key: Path, purpose: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``fields`` with the key's public part and the proof; the key is made when it is not there.

    Args:
        key: file of the private key, the public one lies beside it as ``.pub``.
        purpose: one of ``PROOFS``.
        fields: the request but for ``public_key`` and ``proof``.

    Raises:
        KeyProblemError: the key cannot be made or used.
    """
    # -P: a module of the same name in the working directory must not be taken for ours.
    command = [sys.executable, "-P", "-m", "fleven_agent.identity.keys"]
    question = json.dumps({"key": str(key), "purpose": purpose, "fields": dict(fields)}).encode()
    try:
        done = subprocess.run(command, input=question, capture_output=True, timeout=PROCESS_SECONDS, check=True)
        answer = json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise KeyProblemError(f"the key could not be made: {' '.join(last)}") from None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise KeyProblemError(f"the key could not be made: {error}") from None
    if "problem" in answer:
        raise KeyProblemError(str(answer["problem"]), hint=str(answer.get("hint", "")))
    return dict(answer["fields"])


def sign(key: Path, purpose: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Do in this process what ``ask`` has another process do.

    Raises:
        KeyProblemError: the key cannot be made or used.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    private = _load(key) if key.exists() else _make(key)
    signed: dict[str, Any] = {**fields, "public_key": _public(private)}
    proof = private.sign(PROOFS[purpose](signed), ec.ECDSA(hashes.SHA256()))
    return {**signed, "proof": base64.b64encode(proof).decode()}


def _make(key: Path) -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP384R1())  # the curve of Flower's own examples
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    try:
        key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            owner = key.parent.parent.stat()
            os.chown(key.parent, owner.st_uid, owner.st_gid, follow_symlinks=False)
        # The private one last: a key without its public part is never taken for whole.
        write_atomically(key.with_suffix(".pub"), f"{_public(private)}\n".encode())
        write_atomically(key, private.private_bytes(*form))
    except OSError as error:
        raise KeyProblemError(f"{error.filename or key}: {error.strerror}", hint="check space and owner") from None
    return private


def _load(key: Path) -> "EllipticCurvePrivateKey":
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    hint = "it must be an elliptic curve key in OpenSSH's form, without a passphrase"
    try:
        private = serialization.load_ssh_private_key(key.read_bytes(), None)
    except OSError as error:
        raise KeyProblemError(f"{key}: {error.strerror}", hint="user fleven must be able to read it") from None
    except Exception as error:  # the library raises many kinds for a damaged file
        raise KeyProblemError(f"{key} cannot be used: {error}", hint=hint) from None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise KeyProblemError(f"{key} is not an elliptic curve key", hint=hint)
    return private


def _public(private: "EllipticCurvePrivateKey") -> str:
    from cryptography.hazmat.primitives import serialization

    form = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private.public_key().public_bytes(*form).decode("ascii")


def main() -> int:
    """Read a question from stdin and write the answer, as one JSON object. Always returns 0."""
    question = json.load(sys.stdin)
    try:
        answer: dict[str, Any] = {"fields": sign(Path(question["key"]), question["purpose"], question["fields"])}
    except KeyProblemError as error:
        answer = {"problem": error.message, "hint": error.hint}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
