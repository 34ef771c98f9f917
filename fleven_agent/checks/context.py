"""What the checks of `fleven-agent check` look at."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fleven_agent.common.addresses import resolve
from fleven_agent.common.checks import Result, SkippedError
from fleven_agent.config.parser import Loaded, load
from fleven_agent.config.settings import Settings
from fleven_agent.control import request
from fleven_agent.errors import AgentError, ConfigurationError
from fleven_agent.identity import decisions
from fleven_agent.identity.decisions import ReportAccess
from fleven_agent.identity.files import IdentityFolder
from fleven_agent.identity.model import Identity
from fleven_agent.monitoring.trip_watch import Look, TripWatch, folder_of
from fleven_agent.reporting.client import Answer, DeliveryError, Target, deliver


@dataclass
class Context:
    """What checks look at; costly parts are worked out once, when first asked for."""

    config_file: Path
    state_directory: Path
    runtime_directory: Path
    timeout_seconds: float = 5.0
    problems: tuple[str, ...] = ()

    @cached_property
    def loaded(self) -> Loaded | None:
        """The configuration; None when it cannot be used (``problems`` says why)."""
        try:
            return load(self.config_file)
        except ConfigurationError as caught:
            self.problems = caught.problems
            return None

    def addresses_of(self, host: str) -> tuple[str, ...]:
        """Return the addresses of a host; none while it cannot be resolved."""
        try:
            return resolve(host, self.timeout_seconds)
        except OSError:
            return ()

    @cached_property
    def status(self) -> dict[str, Any] | None:
        """What the running agent says; None when none runs."""
        try:
            found = request(self.runtime_directory, "status")["status"]
        except AgentError:
            return None
        return found if isinstance(found, dict) else None

    @cached_property
    def trips(self) -> Look | None:
        """What this user sees among the trips; None without a folder. A look, not an intake: a check moves nothing."""
        wanted = folder_of(self.settings) if self.settings is not None else None
        if wanted is None:
            return None
        watch = TripWatch(stuck_seconds=self.timeout_seconds)
        try:
            return watch.look(replace(wanted, settle_seconds=0, quarantine=False, minimum_rows=1), scan=True)
        finally:
            watch.stop()

    @property
    def folder(self) -> IdentityFolder:
        """The files of the car's identity."""
        return IdentityFolder(self.state_directory)

    @cached_property
    def identity(self) -> Identity | None:
        """The car's identity; None when there is none, or this user may not read it."""
        try:
            return self.folder.peek()
        except OSError:
            return None

    @cached_property
    def settings(self) -> Settings | None:
        """The settings in force: what the server has bound to the identity wins; None when node.toml cannot be used."""
        if self.loaded is None:
            return None
        return decisions.effective(self.loaded.settings, self.identity, self.folder.key, self.folder.authority)

    @cached_property
    def access(self) -> ReportAccess | None:
        """How reports are sent; None while none can be."""
        if self.loaded is None:
            return None
        return decisions.report_access(self.loaded.settings, self.identity, self.folder.authority)

    @cached_property
    def answer(self) -> Answer | DeliveryError:
        """The server's answer to an empty batch, or why there is none."""
        if self.loaded is None:
            return DeliveryError("no valid configuration")
        if self.access is None:
            return DeliveryError("this car has not joined yet, and sends no reports")
        try:
            target = Target(
                self.access.url,
                self.timeout_seconds,
                self.access.trust.root_certificates,
                "fleven-agent-check",
                self.access.bearer,
                self.access.trust.server_name,
            )
            return deliver(target, [])
        except DeliveryError as caught:
            return caught


def settings_of(context: Context) -> Settings:
    """Return the settings in force.

    Raises:
        SkippedError: node.toml cannot be used.
    """
    if context.settings is None:
        raise SkippedError("node.toml cannot be used")
    return context.settings


def configured(run: Callable[[Context], Result]) -> Callable[[Context], Result]:
    """Return the function of a check that is skipped when node.toml cannot be used."""

    def checked(context: Context) -> Result:
        settings_of(context)
        return run(context)

    return checked
