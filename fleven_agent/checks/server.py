"""What only the server knows: its version, and whether this car is the only one with its partition-id."""

from fleven_agent.checks.context import Context, configured
from fleven_agent.common.checks import Check, Result, error, ok, skipped, warning
from fleven_agent.common.flower_versions import differ, train_together
from fleven_agent.reporting.client import DeliveryError
from fleven_agent.system.versions import installed_version


def version(context: Context) -> Result:
    """Both sides have the same Flower."""
    if isinstance(context.answer, DeliveryError):
        return skipped(f"no answer from the server: {context.answer}")
    theirs, ours = context.answer.flwr_version, installed_version("flwr")
    if theirs is None or ours is None:
        return skipped("one side does not report its version")
    if differ(theirs, ours):
        result = warning if train_together(theirs, ours) else error
        return result(f"this node has Flower {ours}, the server {theirs}", "install the same package on both sides")
    return ok(f"both sides have Flower {ours}" if theirs == ours else f"Flower {ours} here and {theirs} there agree")


def partition(context: Context) -> Result:
    """No other node has this partition-id."""
    if context.status is None:
        return skipped("no agent runs; the server compares the nodes that report")
    problems = [item for item in context.status.get("server_problems", []) if item and item[0] == "duplicate-partition"]
    if problems:
        return error(str(problems[0][1]), str(problems[0][2]) or "give each car its own partition-id")
    if context.status.get("report_problem"):
        return skipped("reports do not reach the server")
    return ok(f"partition-id {context.status.get('node', {}).get('partition_id')} belongs to this node alone")


def delivery(context: Context) -> Result:
    """The running agent's reports arrive."""
    if context.status is None:
        return skipped("no agent runs")
    waiting, problem = context.status.get("reports_waiting"), context.status.get("report_problem")
    if problem:
        return warning(f"{waiting} reports wait: {problem}", "they are kept and sent when the server is back")
    return ok("the last report was delivered")


CHECKS = (
    Check("server.version", "Flower of the server", configured(version)),
    Check("server.partition", "partition-id in the fleet", partition),
    Check("server.delivery", "delivery of reports", delivery),
)
