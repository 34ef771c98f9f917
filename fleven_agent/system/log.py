"""The agent's log: one event for each line on stderr, as ``message key=value``, for the journal or a terminal.

With the journal behind stderr each line begins with its priority (``<4>``, sd-daemon(3)); in a terminal with the
time. Secrets are blanked, what a terminal would obey is written out, and repeats are throttled. Imports
``common`` alone of the agent.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from fleven_agent.common.foreign_text import printable
from fleven_agent.common.journal import behind_journal, priority_prefix

LOGGER = logging.getLogger("fleven_agent")
# Bounded repetitions throughout: a line of a megabyte without a space must not cost more than its length.
_NAMES = (
    r"(?:token|passw(?:or)?d|pass[-_]?phrase|pwd|psk|secret|authorization|cookie|credentials?"
    r"|(?:api|access|auth|pre[-_]?shared)[-_]?key)"
)
_QUOTED = (
    r"\"\"\".*?(?:\"\"\"|\Z)|'''.*?(?:'''|\Z)|\\\"(?:(?!\\\").)*\\\""
    r"|\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?"
)
_VALUE = rf"(?:(?:bearer|basic|digest)\s+)?(?:{_QUOTED}|[^\s,;&\"'}}\])]+)"
_ASSIGNED = re.compile(
    # NAME = value, NAME: value, "name": "value", 'name' => 'value', and the same with escaped quotes inside JSON.
    rf"(?is)(?<![\w.-])([\w.-]{{0,64}}{_NAMES}[\w.-]{{0,32}}(?:\\?[\"'])?\s{{0,4}}(?:=>|[=:])\s{{0,8}})({_VALUE})"
)
_OPTION = re.compile(rf"(?is)(?<!\S)(--[\w-]{{0,64}}{_NAMES}\s+)((?!-){_VALUE})")
_SCHEME = re.compile(r"(?i)\b((?:bearer|basic)\s+)([A-Za-z0-9._~+/=-]{6,})")
# A file of logins (netrc): machine HOST login NAME password SECRET.
_LOGIN = re.compile(
    rf"(?i)\b((?:machine\s{{1,8}}\S{{1,256}}|default)\s{{1,8}}login\s{{1,8}}\S{{1,256}}\s{{1,8}}password\s{{1,8}})({_VALUE})"
)
_CREDENTIALS = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,30}://)[^/\s@\"'?#]{1,512}@")
_KNOWN_FORMS = re.compile(
    r"\b(?:eyJ[\w-]{8,}\.[\w-]+\.[\w-]*|tskey-[\w-]{6,}|AGE-SECRET-KEY-1[0-9A-Z]+|gh[pousr]_\w{16,}|AKIA[0-9A-Z]{16}"
    # A join code, and what a car signs its reports with: id and secret.
    r"|fleven[0-9]+\.[\w-]{16,}|[0-9a-f]{16}\.[\w-]{43}(?![\w-]))"
)
_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?"
    r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)

REPEAT_SECONDS = 300.0


def redact(text: str) -> str:
    """Blank what looks like a secret.

    That is: values whose name says so in any spelling (``report-token = ...``, ``"dbPassword": "..."``, ``--psk ...``),
    ``Bearer ...``, ``https://user:password@``, private keys in PEM, and tokens whose form is known.
    """
    text = _KEY_BLOCK.sub("-----PRIVATE KEY REMOVED-----", text)
    text = _CREDENTIALS.sub(r"\1***@", text)
    text = _ASSIGNED.sub(_blank, text)
    text = _OPTION.sub(r"\1***", text)
    text = _LOGIN.sub(r"\1***", text)
    text = _SCHEME.sub(r"\1***", text)
    return _KNOWN_FORMS.sub("***", text)


def _blank(found: re.Match[str]) -> str:
    """Return a name with its value blanked; the word before a secret (``Bearer``) stays."""
    scheme = re.match(r"(?i)(?:bearer|basic|digest)\s+", found[2])
    return f"{found[1]}{scheme[0] if scheme else ''}***"


def event(message: str, **fields: object) -> str:
    """Return ``message key=value ...``; values with spaces stand in quotes, None is left out."""
    parts = [message]
    for key, value in fields.items():
        if value is None:
            continue
        text = f"{value:g}" if isinstance(value, float) else str(value)
        if not text or any(character in text for character in ' "='):
            text = '"' + text.replace('"', "'") + '"'
        parts.append(f"{key}={text}")
    return " ".join(parts)


class Throttle(logging.Filter):
    """Lets a message through once in ``REPEAT_SECONDS``, and says how often it was held back.

    Applies to records that ask for it with ``extra={"repeats": True}``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is to be written."""
        if not getattr(record, "repeats", False):
            return True
        message = record.getMessage()
        now, key = self._clock(), f"{record.levelno} {message}"
        at, held = self._seen.get(key, (float("-inf"), 0))
        if now - at < REPEAT_SECONDS:
            self._seen[key] = (at, held + 1)
            return False
        if len(self._seen) > 500:
            self._seen.clear()
        self._seen[key] = (now, 0)
        if held:
            record.msg, record.args = f"{message} repeated={held}", None
        return True


class _Formatter(logging.Formatter):
    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        text = printable(redact(text))
        if self._journal:
            return "\n".join(f"{priority_prefix(record.levelno)}{line}" for line in text.splitlines() or [""])
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"{stamp} {record.levelname.lower():7} {text.replace(chr(10), chr(10) + '        ')}"


def set_up(level: str, *, stream: TextIO | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Send the agent's log to stderr, once; a second call only changes the level."""
    target = stream or sys.stderr
    LOGGER.setLevel(level.upper())
    if LOGGER.handlers:
        return
    logging.raiseExceptions = False  # a closed terminal or a full journal must not end the agent
    handler = logging.StreamHandler(target)
    journal = behind_journal(target, os.environ if environment is None else environment)
    handler.setFormatter(_Formatter(journal=journal))
    handler.addFilter(Throttle())
    LOGGER.addHandler(handler)
    LOGGER.propagate = False


class OutputLog:
    """Passes SuperNode's lines on to the log, at most so many a second."""

    def __init__(self, *, lines_per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.lines_per_second = lines_per_second
        self.enabled = True
        self._clock = clock
        self._allowance = float(lines_per_second) * 4
        self._at = clock()
        self._held = 0

    def write(self, level: str, text: str, *, repeats: bool = False) -> None:
        """Write one line of SuperNode under its own level; ``repeats``: hold the same line back for a while."""
        if not text.strip() or not self.enabled:
            return
        now = self._clock()
        rate = float(self.lines_per_second)
        self._allowance = min(rate * 4, self._allowance + (now - self._at) * rate)
        self._at = now
        if self._allowance < 1:
            self._held += 1
            return
        self._allowance -= 1
        if self._held:
            LOGGER.warning("supernode: %d lines held back, more than %g a second", self._held, rate)
            self._held = 0
        number = getattr(logging, level.upper(), logging.INFO)
        LOGGER.log(number, "supernode: %s", text, extra={"repeats": repeats})
