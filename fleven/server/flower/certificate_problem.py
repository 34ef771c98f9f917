"""Why the SuperLink's certificate is not accepted: gRPC only says that nobody answers.

Standard library only.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from fleven.server.config.settings import split_address
from fleven.server.flower.line import installed_line

SECONDS = 3.0


def certificate_problem(address: str, root_certificates: Path) -> str:
    """Return why a client that believes these authorities refuses the server's certificate; "" when it does not.

    Args:
        address: `host:port` of the server.
        root_certificates: PEM.
    """
    host, port = split_address(address)
    try:
        context = ssl.create_default_context(cafile=str(root_certificates))
        context.set_alpn_protocols(list(installed_line().application_protocols))
        with (
            socket.create_connection((host, port), SECONDS) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except (OSError, ValueError):
        return ""
