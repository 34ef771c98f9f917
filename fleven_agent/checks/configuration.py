"""node.toml: whether it can be used, and what in it is worth a second look."""

from urllib.parse import urlsplit

from fleven_agent.checks.context import Context, configured, settings_of
from fleven_agent.common import addresses
from fleven_agent.common.checks import Check, Result, error, ok, skipped, warning
from fleven_agent.config.parser import doubts
from fleven_agent.monitoring.conditions import CATALOGUE
from fleven_agent.protocol.codes import ConditionCode


def valid(context: Context) -> Result:
    """The daemon would start with it."""
    if context.loaded is None:
        return error(
            "; ".join(context.problems), "correct the named lines; `fleven-agent config check` shows them again"
        )
    found = doubts(context.loaded.settings)
    if found:
        message = "; ".join(f"{context.loaded.sources[key]}: {key}: {doubt}" for key, doubt, _ in found)
        return warning(message, "; ".join(hint for _, _, hint in found))
    return ok(f"{', '.join(context.loaded.files)}: valid")


def transport(context: Context) -> Result:
    """How the connection to the SuperLink is protected."""
    settings = settings_of(context)
    host, _ = addresses.split(settings.superlink)
    if settings.insecure is False:
        return ok(f"TLS to {settings.superlink}")
    if addresses.is_loopback(host):
        return ok(f"no TLS to {settings.superlink}: it is this machine")
    source = context.loaded.sources["insecure"] if context.loaded is not None else ""
    text = f"no TLS to {settings.superlink}: models can be read and changed on the way ({source}: insecure)"
    return warning(text, CATALOGUE[ConditionCode.TRANSPORT_INSECURE].hint)


def reports(context: Context) -> Result:
    """How the reports are protected on their way."""
    access = context.access
    if access is None:
        return skipped("this car sends no reports before it has joined")
    parts = urlsplit(access.url)
    if parts.scheme == "https":
        return ok(f"TLS to {access.url}")
    if addresses.is_loopback(parts.hostname or ""):
        return ok(f"no TLS to {access.url}: it is this machine")
    what = "reports and report-token" if access.bearer else "reports"
    text = f"no TLS to {access.url}: {what} can be read on the way"
    return warning(text, CATALOGUE[ConditionCode.TRANSPORT_INSECURE].hint)


def applied(context: Context) -> Result:
    """The running agent took over the last reload."""
    if context.status is None:
        return skipped("no agent runs")
    codes = {one.get("code"): one.get("message", "") for one in context.status.get("conditions", [])}
    if "configuration-invalid" in codes:
        return error(
            f"the agent runs an older configuration: {codes['configuration-invalid']}", "correct it, then reload"
        )
    if context.status.get("config_file") != str(context.config_file):
        message = f"the running agent uses {context.status.get('config_file')}"
        return warning(message, "give that file with --config to check what runs")
    return ok("the running agent uses this file")


CHECKS = (
    Check("configuration.valid", "node.toml and its drop-ins", valid),
    Check("configuration.transport", "protection of the connection to the SuperLink", configured(transport)),
    Check("configuration.reports", "protection of the connection to the server", configured(reports)),
    Check("configuration.applied", "configuration of the running agent", configured(applied)),
)
