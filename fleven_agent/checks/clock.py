"""The clock: whether it is synchronised, and agrees with the server's."""

from fleven_agent.checks.context import Context, configured
from fleven_agent.common.checks import Check, Result, error, ok, skipped, warning
from fleven_agent.monitoring.machine import Reader
from fleven_agent.reporting.client import DeliveryError

WARNING_SECONDS, ERROR_SECONDS = 5.0, 300.0


def synchronised(_context: Context) -> Result:
    """The machine says that its clock is synchronised."""
    found = Reader([]).clock_synchronised()
    if found is None:
        return skipped("this machine does not say whether its clock is synchronised")
    if not found:
        return warning("the clock is not synchronised", "switch on systemd-timesyncd or chrony, and check the network")
    return ok("synchronised")


def server(context: Context) -> Result:
    """Difference between this clock and the server's."""
    answer = context.answer
    if isinstance(answer, DeliveryError):
        return skipped(f"no answer from the server: {answer}")
    offset = answer.clock_offset_seconds
    if offset is None:
        return skipped("the server does not say what time it is")
    message = f"{abs(offset):.1f} s {'behind' if offset > 0 else 'ahead of'} the server"
    hint = "synchronise both clocks; certificates and times of reports depend on them"
    if abs(offset) >= ERROR_SECONDS:
        return error(message, hint)
    return warning(message, hint) if abs(offset) >= WARNING_SECONDS else ok(message)


CHECKS = (
    Check("clock.synchronised", "clock of this machine", synchronised),
    Check("clock.server", "clock against the server's", configured(server)),
)
