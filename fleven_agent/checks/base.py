"""What a check is: an id, a title, and a function from the context to a result."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from fleven_agent.config import Loaded, load
from fleven_agent.control import request
from fleven_agent.delivery import Answer, DeliveryError, deliver
from fleven_agent.errors import AgentError, ConfigurationError
from fleven_agent.settings import Settings


class Status(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """One outcome; ``hint`` says what to do."""

    status: Status
    message: str
    hint: str = ""


def ok(message: str) -> Result:
    """All is well."""
    return Result(Status.OK, message)


def warning(message: str, hint: str) -> Result:
    """It works, but not for long or not well."""
    return Result(Status.WARNING, message, hint)


def error(message: str, hint: str) -> Result:
    """It does not work."""
    return Result(Status.ERROR, message, hint)


def skipped(message: str) -> Result:
    """It cannot be told."""
    return Result(Status.SKIPPED, message)


@dataclass
class Context:
    """What checks look at; costly parts are worked out once, when first asked for."""

    config_file: Path
    state_directory: Path
    runtime_directory: Path
    timeout_seconds: float = 5.0
    problems: list[str] = field(default_factory=list)

    @cached_property
    def loaded(self) -> Loaded | None:
        """The configuration; None when it cannot be used (``problems`` says why)."""
        try:
            return load(self.config_file)
        except ConfigurationError as caught:
            self.problems = caught.problems
            return None

    @cached_property
    def status(self) -> dict[str, Any] | None:
        """What the running agent says; None when none runs."""
        try:
            found = request(self.runtime_directory, "status")["status"]
        except AgentError:
            return None
        return found if isinstance(found, dict) else None

    @cached_property
    def answer(self) -> Answer | DeliveryError:
        """The server's answer to an empty batch, or why there is none."""
        if self.loaded is None:
            return DeliveryError("no valid configuration")
        settings = self.loaded.settings
        try:
            return deliver(
                settings.report_url or "",
                [],
                timeout_seconds=self.timeout_seconds,
                root_certificates=settings.reports.root_certificates or settings.root_certificates,
                user_agent="fleven-agent-check",
                token=settings.report_token,
            )
        except DeliveryError as caught:
            return caught


@dataclass(frozen=True, slots=True)
class Check:
    """A named check. ``needs_configuration``: skipped when node.toml cannot be used."""

    id: str
    title: str
    run: Callable[[Context], Result]
    needs_configuration: bool = True


def run_checks(checks: Sequence[Check], context: Context) -> Iterator[tuple[Check, Result]]:
    """Run checks one after another; a check that fails itself is an error, never a traceback."""
    for check in checks:
        if check.needs_configuration and context.loaded is None:
            yield check, skipped("node.toml cannot be used")
            continue
        try:
            yield check, check.run(context)
        except Exception as caught:  # whatever is broken here, the other checks are still wanted
            message = f"the check itself failed: {type(caught).__name__}: {caught}"
            yield check, error(message, "send the output of `fleven-agent collect` to the maintainers")


def select(checks: Sequence[Check], only: Sequence[str]) -> list[Check]:
    """Return the checks whose id or group is named; all without names.

    Raises:
        KeyError: a name that is neither; its argument is the name.
    """
    if not only:
        return list(checks)
    for name in only:
        if not any(name in (check.id, check.id.partition(".")[0]) for check in checks):
            raise KeyError(name)
    return [check for check in checks if check.id in only or check.id.partition(".")[0] in only]


def settings_of(context: Context) -> Settings:
    """Return the settings of a context whose configuration was found usable."""
    if context.loaded is None:
        raise RuntimeError("this check needs a configuration")
    return context.loaded.settings
