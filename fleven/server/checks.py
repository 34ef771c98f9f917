"""What a check of `fleven-server check` is: an id, a title, a function from the context to a result.

The checks themselves stand in `check_catalogue`. They run in the command's own process and only look: nothing is
created or repaired. Must not import typer or FastAPI.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from fleven.server.config import Loaded, Paths, ServerConfig, load
from fleven.server.errors import ConfigurationError, ServerError
from fleven.server.register import Register
from fleven.server.server_status import StatusAnswer, server_status
from fleven.server.store import Store, open_store


class Outcome(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """One outcome; `hint` says what to do."""

    outcome: Outcome
    message: str
    hint: str = ""


def ok(message: str) -> Result:
    """All is well."""
    return Result(Outcome.OK, message)


def warning(message: str, hint: str) -> Result:
    """It works, but not for long or not well."""
    return Result(Outcome.WARNING, message, hint)


def error(message: str, hint: str) -> Result:
    """It does not work."""
    return Result(Outcome.ERROR, message, hint)


def skipped(message: str) -> Result:
    """It can not be told."""
    return Result(Outcome.SKIPPED, message)


class SkippedError(Exception):
    """What a check needs is not to be had; the message says what."""


@dataclass
class Context:
    """What checks look at; costly parts are worked out once, when first asked for."""

    config_file: Path | None
    paths: Paths
    now: datetime

    @cached_property
    def loaded(self) -> Loaded | ConfigurationError:
        """The configuration, or what is wrong with it."""
        try:
            return load(self.config_file)
        except ConfigurationError as caught:
            return caught

    @property
    def config(self) -> ServerConfig:
        """The configuration.

        Raises SkippedError when it can not be used.
        """
        if isinstance(self.loaded, ConfigurationError):
            raise SkippedError("server.toml can not be used")
        return self.loaded.config

    @cached_property
    def store(self) -> Store:
        """The open register.

        Raises SkippedError when there is none or it can not be used; `register.open` says why.
        """
        if not self.paths.register.exists():
            raise SkippedError("there is no register yet")
        try:
            return open_store(self.paths.register)
        except ServerError as caught:
            raise SkippedError("the register can not be opened") from caught

    @cached_property
    def status(self) -> StatusAnswer:
        """Everything that `status` shows."""
        return server_status(
            self.store, Register.from_config(self.store, self.config), self.config, self.paths, self.now
        )

    def close(self) -> None:
        """Let go of the register."""
        if "store" in self.__dict__:
            self.store.close()


@dataclass(frozen=True, slots=True)
class Check:
    """A named check."""

    id: str
    title: str
    run: Callable[[Context], Result]


def select(checks: Sequence[Check], names: Sequence[str]) -> list[Check]:
    """The checks whose id or group is named, in their order; all without names.

    Raises KeyError for a name that is neither; its argument is the name.
    """
    for name in names:
        if not any(name in (check.id, check.id.partition(".")[0]) for check in checks):
            raise KeyError(name)
    return [check for check in checks if not names or check.id in names or check.id.partition(".")[0] in names]


def run_checks(chosen: Sequence[Check], context: Context) -> Iterator[tuple[Check, Result]]:
    """Run checks one after another; one that fails itself is an error, never a traceback."""
    for check in chosen:
        try:
            yield check, check.run(context)
        except SkippedError as caught:
            yield check, skipped(str(caught))
        except Exception as caught:
            message = f"the check itself failed: {type(caught).__name__}: {caught}"
            yield check, error(message, "report this to the maintainers with the journal of fleven-server")
