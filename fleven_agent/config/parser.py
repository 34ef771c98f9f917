"""Reads node.toml and its drop-ins, and reports everything that is wrong with them at once.

The daemon runs this module in a short-lived process of its own (``python -m fleven_agent.config.parser FILE``), so that
pydantic does not stay in its memory; ``config check``, ``config show`` and ``check`` call ``load`` directly. All
run the same code. What types and bounds cannot say (keys that contradict each other, files that cannot be read) is
looked at after them. Imports pydantic, and must not be imported by ``daemon`` or what it imports.
"""

import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from fleven_agent.common import addresses
from fleven_agent.common.foreign_text import lookalike, parse_toml, printable
from fleven_agent.config import allowed_hours
from fleven_agent.config.settings import (
    DEFAULT_REPORT_PORT,
    FLEET_PORT,
    OTHER_PORTS,
    SECRETS,
    Settings,
    keys,
)
from fleven_agent.errors import ConfigurationError
from fleven_agent.protocol.codes import REPORTS_PATH
from fleven_agent.protocol.join_code import JoinCodeError, decode

DEFAULT_FILE = Path("/etc/fleven/node.toml")
_ADAPTER = TypeAdapter(Settings)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Valid settings, and for each dotted key the file, ``default`` or ``computed`` that it comes from."""

    settings: Settings
    sources: dict[str, str]
    files: list[str]


@dataclass(frozen=True, slots=True)
class _Layer:
    path: Path
    values: dict[str, Any]


def load(file: Path, *, hostname: str | None = None, join: str | None = None) -> Loaded:
    """Read a configuration file and the drop-ins in ``FILE.d/*.toml``, later ones winning key by key.

    Args:
        file: the configuration file.
        hostname: of this machine; asked for unless given.
        join: a join code from the command line, which wins over one in a file.

    Raises:
        ConfigurationError: with one line ``file: key: problem (hint)`` for each problem.
    """
    problems: list[str] = []
    try:
        found = drop_ins(file)
    except OSError as error:
        found = []
        problems.append(f"{file}.d: cannot be read: {error.strerror}")
    layers = [layer for path in [file, *found] if (layer := _read(path, problems)) is not None]
    if join is not None:
        layers.append(_Layer(Path("command line"), {"join": join}))
    merged: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        _merge(merged, layer.values, sources, str(layer.path))
    if problems:  # a file that cannot be read may hold the keys that would be missed below
        raise ConfigurationError(problems)
    invited = _invitation(merged, sources, problems)
    try:
        settings = _validate({**invited, **merged})
    except ValidationError as error:
        problems += _explain(error, sources, file)
        partly = _without({**invited, **merged}, error)
        if partly is None:
            raise ConfigurationError(problems) from None
        settings = partly
    named = {line.split(": ")[1] for line in problems}
    problems += [_line(sources, file, *problem) for problem in contradictions(settings) if problem[0] not in named]
    if problems:
        raise ConfigurationError(problems)
    settings = complete(settings, sources, hostname or platform.node() or "node")
    return Loaded(settings, {key: sources.get(key, "default") for key in keys()}, [str(x.path) for x in layers])


def _invitation(merged: Mapping[str, Any], sources: dict[str, str], problems: list[str]) -> dict[str, Any]:
    """Return what a join code has to say of the two required keys, for a car that has neither of them yet."""
    if not isinstance(merged.get("join"), str):
        return {}
    said: dict[str, Any] = {"partition-id": None}
    try:
        reached, _ = addresses.split(decode(merged["join"]).server_addresses[0])
    except JoinCodeError as error:
        problems.append(f"{sources['join']}: join: {error.message} ({error.hint})")
        reached = "127.0.0.1"
    said["superlink"] = addresses.join(reached, FLEET_PORT)
    for key in said:
        sources.setdefault(key, "computed: the server of the join code")
    return said


def drop_ins(file: Path) -> list[Path]:
    """Return the drop-in files of a configuration file, in the order in which they are applied.

    Raises:
        OSError: when there is a folder of them that cannot be read.
    """
    folder = Path(f"{file}.d")
    try:
        names = os.listdir(folder)  # noqa: PTH208  # Path.glob would take a folder that may not be read for an empty one
    except FileNotFoundError:
        return []
    return sorted(folder / name for name in names if name.endswith(".toml") and not name.startswith("."))


def complete(settings: Settings, sources: dict[str, str], hostname: str) -> Settings:
    """Fill in what follows from other keys: node-name, insecure and report-url."""
    host, _ = addresses.split(settings.superlink)
    computed: dict[str, Any] = {}
    if settings.node_name is None:
        computed["node_name"] = hostname[:255]
        sources["node-name"] = "computed: the host's name"
    if settings.insecure is None:
        computed["insecure"] = False
        sources["insecure"] = "computed: TLS unless it is set"
    if settings.report_url is None:
        scheme = "http" if settings.insecure else "https"
        computed["report_url"] = f"{scheme}://{addresses.join(host, DEFAULT_REPORT_PORT)}"
        sources["report-url"] = "computed: the host of superlink"
    return replace(settings, **computed)


def _read(path: Path, problems: list[str]) -> _Layer | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        problems.append(f"{path}: file not found (copy the commented example, or name another with --config)")
        return None
    except (OSError, ValueError) as error:
        problems.append(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")
        return None
    try:
        return _Layer(path, parse_toml(content))
    except ValueError as error:
        problems.append(f"{path}: {error}")
    return None


def _validate(values: dict[str, Any]) -> Settings:
    # JSON mode: pydantic is strict there (no "5" for 5) and still takes arrays for tuples.
    return _ADAPTER.validate_json(json.dumps(values, default=str), strict=True)


def _without(values: dict[str, Any], error: ValidationError) -> Settings | None:
    """Return settings without the keys that a validation refused, so that the rest is checked in the same go."""
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for item in error.errors(include_url=False):
        table, path = kept, [str(part) for part in item["loc"]]
        if len(path) > 1 and isinstance(kept.get(path[0]), dict):
            table, path = kept[path[0]], path[1:]
        if item["type"] not in {"missing", "missing_argument"}:
            table.pop(path[0], None)
    try:
        return _validate({"partition-id": 0, "superlink": "127.0.0.1:9092", **kept})
    except ValidationError:
        return None


def _merge(
    into: dict[str, Any], values: Mapping[str, Any], sources: dict[str, str], source: str, prefix: str = ""
) -> None:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and isinstance(into.get(key, {}), dict):
            sources.setdefault(name, source)
            _merge(into.setdefault(key, {}), value, sources, source, f"{name}.")
        else:
            into[key] = value
            sources[name] = source


def _line(sources: Mapping[str, str], file: Path, key: str, problem: str, hint: str) -> str:
    source = sources.get(key, str(file))
    return f"{source}: {key}: {problem}" + (f" ({hint})" if hint else "")


def _explain(error: ValidationError, sources: Mapping[str, str], file: Path) -> list[str]:
    lines: dict[str, None] = {}  # an ordered set: a union reports one problem several times
    for item in error.errors(include_url=False):
        parts = [str(part) for part in item["loc"]]
        key = _key_of(parts)
        problem, hint = item["msg"], ""
        if item["type"] in {"missing", "missing_argument"}:
            problem, hint = "required key is missing", _EXAMPLES.get(key, "")
        elif item["type"] in {"unexpected_keyword_argument", "extra_forbidden"}:
            key = ".".join(parts)
            problem, hint = "unknown key", _nearest(key)
        elif item["type"] in {"dataclass_type", "dataclass_exact_type"}:
            problem, hint = "must be a table", f"write [{key}] on a line of its own and its keys below"
        else:
            problem = f"{problem[:1].lower()}{problem[1:]}"
            problem += "" if key in SECRETS else f", not {_shown(item.get('input'))}"
            hint = _EXAMPLES.get(key, "")
        lines[_line(sources, file, key, problem, hint)] = None
    return list(lines)


_EXAMPLES = {
    "partition-id": "for example partition-id = 0; each car of the fleet has its own",
    "superlink": 'for example superlink = "100.64.0.1:9092"',
}


def _key_of(parts: list[str]) -> str:
    """Return the dotted key of a pydantic location, without the indexes and type names that it appends."""
    known = {key for name in keys() for key in (name, name.partition(".")[0])}
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        if name in known:
            return name
    return ".".join(parts)


def _nearest(key: str) -> str:
    import difflib  # only on the way to an error message

    known = keys()
    close = difflib.get_close_matches(key.replace("_", "-").lower(), known, n=1, cutoff=0.6)
    if not close:  # a key that was put into the wrong table
        leaf = key.rpartition(".")[2].replace("_", "-")
        close = [name for name in known if name.rpartition(".")[2] == leaf]
    if not close:
        return "see node.toml(5) for all keys"
    table, _, leaf = close[0].rpartition(".")
    return f"did you mean {leaf}?" if table == key.rpartition(".")[0] else f"did you mean {leaf} in [{table}]?"


def _shown(value: object) -> str:
    text = printable(json.dumps(value, default=str, ensure_ascii=False))
    return text if len(text) <= 60 else f"{text[:57]}..."


def main(file: str) -> int:
    """Print the settings, or all problems, as one JSON object for the daemon. Always returns 0."""
    try:
        loaded = load(Path(file))
        answer: dict[str, Any] = {"settings": asdict(loaded.settings), "files": loaded.files}
    except ConfigurationError as error:
        answer = {"problems": error.problems}
    json.dump(answer, sys.stdout)
    return 0


BLANKED = "***"


def effective(loaded: Loaded) -> dict[str, dict[str, Any]]:
    """Return {dotted key: {value, source}} of all settings, with secrets blanked."""
    values = asdict(loaded.settings)
    rows: dict[str, dict[str, Any]] = {}
    for key in keys():
        value: Any = values
        for part in key.split("."):
            value = value[part.replace("-", "_")]
        if key in SECRETS and value is not None:
            value = BLANKED
        rows[key] = {"value": list(value) if isinstance(value, tuple) else value, "source": loaded.sources[key]}
    return rows


_TOKEN = re.compile(r"[!-~]+")
"""What an HTTP header can carry, without spaces."""


def contradictions(settings: Settings) -> list[tuple[str, str, str]]:
    """Return (key, problem, hint) for what types and bounds cannot say."""
    found: list[tuple[str, str, str]] = []
    for key, address in (("superlink", settings.superlink), ("clientapp-address", settings.clientapp_address)):
        try:
            addresses.split(address)
        except ValueError as error:
            found.append((key, f'"{address}" is not an address', str(error)))
    number = settings.partition_id
    if settings.num_partitions is not None and number is not None and number >= settings.num_partitions:
        problem = f"{number} is not below num-partitions = {settings.num_partitions}"
        found.append(("partition-id", problem, "the first car is 0"))
    found += _transport(settings)
    if settings.report_url is not None:
        found += _report_url(settings.report_url)
    if settings.report_token is not None and not _TOKEN.fullmatch(settings.report_token):
        found.append(("report-token", "holds a space or a character that is not ASCII", "use letters, digits, - and _"))
    for key, path in (
        ("root-certificates", settings.root_certificates),
        ("auth-private-key", settings.auth_private_key),
        ("reports.root-certificates", settings.reports.root_certificates),
    ):
        found += _file(key, path)
    if settings.data_path is not None and not settings.data_path.startswith("/"):
        found.append(("data-path", f'"{settings.data_path}" is not an absolute path', "begin it with /"))
    for key, text in (("data-path", settings.data_path), ("node-name", settings.node_name)):
        if text is not None and (printable(text) != text or any(character in text for character in "\"'\n\t")):
            hint = "Flower cannot pass such a text on to the app"
            found.append((key, "holds a quote, a line break or a character that cannot be printed", hint))
    found += [("gates.allowed-hours", problem, hint) for problem, hint in allowed_hours.problems(settings.gates)]
    if settings.supervision.backoff_maximum_seconds < settings.supervision.backoff_initial_seconds:
        problem = f"{settings.supervision.backoff_maximum_seconds:g} is below backoff-initial-seconds"
        found.append(("supervision.backoff-maximum-seconds", problem, "raise it"))
    return found


def _transport(settings: Settings) -> list[tuple[str, str, str]]:
    tls = settings.root_certificates is not None
    if settings.insecure and tls:
        return [("insecure", "cannot be true beside root-certificates", "remove one of the two")]
    if settings.auth_private_key is not None and settings.insecure:
        return [("auth-private-key", "needs TLS", "set root-certificates; Flower refuses it without")]
    return []


def _report_url(url: str) -> list[tuple[str, str, str]]:
    shown = f'"{printable(url)}"'
    try:
        parts = urlsplit(url)
        if parts.username is not None:
            return [("report-url", "holds a user name, which the server ignores", "use report-token")]
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(character.isspace() for character in url) or lookalike(url):
        hint = lookalike(url) or 'for example "http://100.64.0.1:9190"'
        return [("report-url", f"{shown} is not an HTTP address", hint)]
    return []


def doubts(settings: Settings) -> list[tuple[str, str, str]]:
    """Return (key, doubt, hint) for what may be meant and is most likely mistyped: warnings, no errors."""
    found: list[tuple[str, str, str]] = []
    host, port = addresses.split(settings.superlink)
    asks = "`fleven-agent check --only network` asks what is there"
    if port in OTHER_PORTS:  # no error: a SuperLink may have any port, and earlier versions took it
        hint = f'the SuperLink\'s Fleet API is at "{addresses.join(host, FLEET_PORT)}" by default; {asks}'
        found.append(("superlink", f"{port} is by default {OTHER_PORTS[port]}", hint))
    return found + _report_doubts(settings, host, port, asks)


def _report_doubts(settings: Settings, host: str, port: int, asks: str) -> list[tuple[str, str, str]]:
    """Return doubts about report-url; never errors, since a car whose reports go astray trains all the same.

    A node.toml that earlier versions took must not keep a car from starting after an upgrade.
    """
    url = settings.report_url or ""
    parts, shown = urlsplit(url), f'"{printable(url)}"'
    base = f"{parts.scheme}://{parts.netloc}"
    if parts.query or parts.fragment:
        return [("report-url", f"{shown} holds more than an address", f'write "{base}{parts.path}"')]
    before, api, _ = f"{parts.path.rstrip('/')}/".partition(f"{REPORTS_PATH.rpartition('/')[0]}/")
    if api:
        doubt = f"{shown} names the API's own path, which the agent adds by itself"
        return [("report-url", doubt, f'write "{base}{before}"')]
    if (parts.hostname, parts.port) == (host.lower(), port) and port != DEFAULT_REPORT_PORT:
        doubt = f"port {port} of {host} is the SuperLink's, as the key superlink says, and accepts no reports"
        return [("report-url", doubt, f'for example "http://{addresses.join(host, DEFAULT_REPORT_PORT)}"')]
    flower = {FLEET_PORT: "the port of the SuperLink's Fleet API", **OTHER_PORTS}
    if parts.port in flower and parts.port != DEFAULT_REPORT_PORT:
        hint = f"reports go to port {DEFAULT_REPORT_PORT} by default; {asks}"
        return [("report-url", f"{parts.port} is by default {flower[parts.port]}", hint)]
    return []


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


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
