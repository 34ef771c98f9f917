"""Addresses of the SuperLink and the server: parsed, resolved, tried.

Imports ``foreign_text`` only.
"""

import ipaddress
import socket
import threading

from fleven_agent.common.foreign_text import lookalike


def split(address: str) -> tuple[str, int]:
    """Split ``HOST:PORT`` or ``[IPv6]:PORT``.

    Raises:
        ValueError: with a sentence that says what is wrong.
    """
    if typed := lookalike(address):
        raise ValueError(typed)
    if "://" in address:
        raise ValueError('write it without a scheme, as "HOST:PORT"')
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise ValueError(f'no port; write "{address or "HOST"}:9092"')
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address needs brackets: [ADDRESS]:PORT")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ValueError(f'"{port}" is not a port (1 to 65535)')
    if not host or any(character.isspace() or character in "/\"'\\@?#*" for character in host):
        raise ValueError(f'"{host}" is not a host name or address')
    return host, int(port)


def join(host: str, port: int) -> str:
    """Return ``HOST:PORT``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether packets to this host stay on the machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def resolve(host: str, timeout_seconds: float = 5.0) -> tuple[str, ...]:
    """Return the addresses of a host, sorted.

    The system's resolver knows no deadline, so it runs on a thread of its own.

    Raises:
        OSError: it cannot be resolved, or not in time; ``strerror`` says why.
    """
    found: list[str] = []
    problems: list[OSError] = []

    def ask() -> None:
        try:
            found.extend(
                {str(entry[4][0]) for entry in socket.getaddrinfo(_plain(host), None, type=socket.SOCK_STREAM)}
            )
        except (OSError, UnicodeError) as error:
            problems.append(error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, "no host name"))

    asking = threading.Thread(target=ask, name="resolve", daemon=True)
    asking.start()
    asking.join(timeout_seconds)
    if asking.is_alive():
        raise TimeoutError(0, f"no answer from DNS within {timeout_seconds:g} s")
    if problems:
        raise problems[0]
    return tuple(sorted(found))


def connect(host: str, port: int, timeout_seconds: float | None) -> socket.socket:
    """Return a TCP connection, with this deadline for each wait.

    Raises:
        OSError: there is none.
    """
    return socket.create_connection((_plain(host), port), timeout=timeout_seconds)  # type: ignore[arg-type]  # bytes too


def _plain(host: str) -> str | bytes:
    """Return a host as bytes where it can be.

    ``socket`` takes those as they are; for a text it loads the tables of international names, 0.3 MB that stay.
    """
    return host.encode("ascii") if host.isascii() else host


def connect_problem(address: str, timeout_seconds: float = 5.0) -> str:
    """Try a TCP connection to ``HOST:PORT``; return why it failed, or an empty text."""
    host, port = split(address)
    try:
        with connect(host, port, timeout_seconds):
            return ""
    except socket.gaierror as error:
        return f"the name {host} cannot be resolved ({error.strerror})"
    except TimeoutError:
        return f"no answer within {timeout_seconds:g} s"
    except OSError as error:
        return (error.strerror or str(error)).lower()
