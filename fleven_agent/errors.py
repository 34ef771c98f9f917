"""The agent's one family of errors: each has a code for scripts, an exit code, and a hint for the operator.

Raised anywhere, caught once, in ``cli.main``. Imports nothing of the agent but ``common.errors``.
"""

from fleven_agent.common.errors import EXIT_CONFIGURATION, EXIT_USAGE, OperatorError
from fleven_agent.common.errors import EXIT_TEMPORARY as EXIT_TEMPORARY

EXIT_NOT_RUNNING = 3  # what `systemctl status` answers for a stopped unit (LSB)


class AgentError(OperatorError):
    """Something an operator can act on."""

    code = "agent-error"


class ConfigurationError(AgentError):
    """The configuration cannot be used; ``problems`` holds one line each."""

    code = "configuration-invalid"
    exit_code = EXIT_CONFIGURATION

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems), problems=problems)

    def lines(self) -> list[str]:
        """Return the problems alone."""
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


class AlreadyRunningError(AgentError):
    """Another agent holds the state folder."""

    code = "agent-already-running"
