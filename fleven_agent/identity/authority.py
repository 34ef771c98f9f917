"""Certificates of the server's authority: their fingerprints, and which of a bundle may be trusted.

Reads PEM without the library that makes certificates, which the agent's process never loads. Imports the standard
library only.
"""

import base64
import hashlib
import re

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s.+?-----END CERTIFICATE-----", re.DOTALL)
MAXIMUM_CERTIFICATES = 8
_SEQUENCE = b"\x30"
"""With which the DER of every certificate begins."""


def split(bundle: str) -> list[str]:
    """Return the certificates of a bundle, each in PEM.

    Raises:
        ValueError: it holds none, or something that is none.
    """
    found = _CERTIFICATE.findall(bundle)
    if not 0 < len(found) <= MAXIMUM_CERTIFICATES:
        raise ValueError("it holds no certificate" if not found else "it holds too many certificates")
    for one in found:
        fingerprint(one)
    return [f"{one}\n" for one in found]


def fingerprint(certificate: str) -> str:
    """Return SHA-256 over a certificate's DER in hexadecimal digits.

    Raises:
        ValueError: it is no certificate in PEM.
    """
    body = "".join(certificate.strip().splitlines()[1:-1]).replace(" ", "")
    content = base64.b64decode(body, validate=True)
    if content[:1] != _SEQUENCE:
        raise ValueError("something in it is not a certificate")
    return hashlib.sha256(content).hexdigest()


def fingerprints(bundle: str) -> list[str]:
    """Return the fingerprints of a bundle, in its order.

    Raises:
        ValueError: it holds no certificate.
    """
    return [fingerprint(one) for one in split(bundle)]


def shown(digits: str) -> str:
    """Return a fingerprint as it is shown to people, who compare two of them: in groups."""
    return " ".join(digits[start : start + 8] for start in range(0, len(digits), 8))
