"""The agent's one family of errors: each has a code for scripts, an exit code, and a hint for the operator.

They are raised anywhere and caught once, in ``cli.main``. Imports nothing of the agent.
"""

from typing import ClassVar

EXIT_STOPPED = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3  # what `systemctl status` answers for a stopped unit (LSB)
EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h; the unit is not restarted for it


class AgentError(Exception):
    """Something an operator can act on."""

    code: ClassVar[str] = "agent-error"
    exit_code: ClassVar[int] = EXIT_FAILURE

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def lines(self) -> list[str]:
        """Return what to print, one line each."""
        return [f"{self.message} ({self.hint})" if self.hint else self.message]


class ConfigurationError(AgentError):
    """The configuration cannot be used; ``problems`` holds one line each."""

    code = "configuration-invalid"
    exit_code = EXIT_CONFIGURATION

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems

    def lines(self) -> list[str]:
        return list(self.problems)


class UsageError(AgentError):
    """The command line asks for something that does not exist."""

    code = "usage"
    exit_code = EXIT_USAGE


class NotRunningError(AgentError):
    """No agent answers on the control socket."""

    code = "agent-not-running"
    exit_code = EXIT_NOT_RUNNING


class NotAllowedError(AgentError):
    """The operating system, or the agent, refuses what was asked."""

    code = "permission-denied"


class StateError(AgentError):
    """A state, runtime or spool folder cannot be used."""

    code = "state-unusable"
    exit_code = EXIT_FAILURE


class AlreadyRunningError(AgentError):
    """Another agent holds the state folder."""

    code = "agent-already-running"
    exit_code = EXIT_FAILURE
