"""Whether certificates and keys that server.toml names can be used. Imports nothing of the package."""

from __future__ import annotations

import os
from pathlib import Path


def readable(value: Path | None) -> Path | None:
    """Return a file that this user can read, or None.

    Raises:
        ValueError: it is missing, or not readable.
    """
    if value is not None and not os.access(value, os.R_OK):
        raise ValueError(f"{value} is missing or not readable (the service runs as user fleven-server)")
    return value


def check_pair(certificate: Path, private_key: Path) -> None:
    """Load a certificate with its key, as a TLS server does.

    Raises:
        ValueError: either is none, they do not belong together, or the key has a password.
    """
    # Imported late: OpenSSL costs every command some milliseconds, and most servers run without TLS.
    import ssl

    try:
        # An empty password keeps OpenSSL from asking the terminal for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, private_key, password="")
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        text = f"{certificate} and {private_key} cannot be used: {str(reason).lower().replace('_', ' ')}"
        raise ValueError(f"{text} (a PEM certificate and its own key, without a password)") from error
