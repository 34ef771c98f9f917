"""What types and bounds cannot say of node.toml: keys that contradict each other, files that cannot be read.

Pure but for a look at the files that are named. Imports the settings, addresses and hours.
"""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from fleven_agent import addresses, hours
from fleven_agent.settings import Settings

_TOKEN = re.compile(r"[!-~]+")
"""What an HTTP header can carry, without blanks."""


def contradictions(settings: Settings) -> list[tuple[str, str, str]]:
    """Return (key, problem, hint) for what types and bounds cannot say."""
    found: list[tuple[str, str, str]] = []
    host = ""
    for key, address in (("superlink", settings.superlink), ("clientapp-address", settings.clientapp_address)):
        try:
            name, _ = addresses.split(address)
        except ValueError as error:
            found.append((key, f'"{address}" is not an address', str(error)))
        else:
            host = name if key == "superlink" else host
    if settings.num_partitions is not None and settings.partition_id >= settings.num_partitions:
        problem = f"{settings.partition_id} is not below num-partitions = {settings.num_partitions}"
        found.append(("partition-id", problem, "the first car is 0"))
    if host:
        found += _transport(settings, host)
    if settings.report_url is not None:
        found += _report_url(settings.report_url)
    if settings.report_token is not None and not _TOKEN.fullmatch(settings.report_token):
        found.append(("report-token", "holds a blank or a character that is not ASCII", "letters, digits, - and _ do"))
    for key, path in (
        ("root-certificates", settings.root_certificates),
        ("auth-private-key", settings.auth_private_key),
        ("reports.root-certificates", settings.reports.root_certificates),
    ):
        found += _file(key, path)
    if settings.data_path is not None and not settings.data_path.startswith("/"):
        found.append(("data-path", f'"{settings.data_path}" is not an absolute path', "begin it with /"))
    for key, text in (("data-path", settings.data_path), ("node-name", settings.node_name)):
        if text is not None and any(c in text for c in "\"'\n\r"):
            found.append((key, "holds a quote or a line break", "Flower cannot pass such a text on"))
    found += [("gates.allowed-hours", problem, hint) for problem, hint in hours.problems(settings.gates)]
    if settings.supervision.backoff_maximum_seconds < settings.supervision.backoff_initial_seconds:
        problem = f"{settings.supervision.backoff_maximum_seconds:g} is below backoff-initial-seconds"
        found.append(("supervision.backoff-maximum-seconds", problem, "raise it"))
    return found


def _transport(settings: Settings, host: str) -> list[tuple[str, str, str]]:
    tls = settings.root_certificates is not None
    if settings.insecure and tls:
        return [("insecure", "cannot be true beside root-certificates", "remove one of the two")]
    if settings.insecure is False and not tls:
        return [("insecure", "is false, but no root-certificates is set", "name the SuperLink's CA certificate")]
    if settings.insecure is None and not tls and not addresses.is_private_path(host):
        problem = f"required, since {host} is neither a loopback nor a tailnet address"
        hint = "name the CA certificate of the SuperLink, or say insecure = true if the way there is safe"
        return [("root-certificates", problem, hint)]
    if settings.auth_private_key is not None and not tls:
        return [("auth-private-key", "needs TLS", "set root-certificates; Flower refuses it without")]
    return []


def _report_url(url: str) -> list[tuple[str, str, str]]:
    try:
        parts = urlsplit(url)
        if parts.username is not None:
            return [("report-url", "holds a user name, which the server does not look at", "use report-token")]
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if usable and not any(character.isspace() for character in url):
        return []
    return [("report-url", f'"{url}" is not an HTTP address', 'for example "http://100.64.0.1:9190"')]


def _file(key: str, path: str | None) -> list[tuple[str, str, str]]:
    if path is None:
        return []
    try:
        with Path(path).open("rb"):
            return []
    except (OSError, ValueError) as error:
        problem = f"{path}: {getattr(error, 'strerror', None) or error}"
        return [(key, problem, f"it must be readable by {_user()}")]


def _user() -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:
        return f"user id {os.geteuid()}"
