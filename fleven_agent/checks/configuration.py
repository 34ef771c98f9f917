"""node.toml: whether it can be used, and what in it is worth a second look."""

from urllib.parse import urlsplit

from fleven_agent.checks.context import Context, configured, settings_of
from fleven_agent.common import addresses
from fleven_agent.common.checks import Check, Result, error, ok, skipped, warning
from fleven_agent.config.parser import doubts


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
    found = context.addresses_of(host)
    if not found:
        return skipped(f"no TLS to {settings.superlink}, and {host} cannot be resolved now")
    outside = addresses.public_address(found)
    if not outside:
        return ok(f"no TLS to {settings.superlink}: it is a loopback or tailnet address, where packets stay private")
    hint = "set root-certificates to the SuperLink's CA, or use its tailnet address"
    if settings.insecure is None:
        message = (
            f"{host} is {outside}, neither a loopback nor a tailnet address: without TLS the agent does not connect"
        )
        return error(message, f"{hint}; insecure = true if the network between is safe")
    return warning(f"no TLS to {settings.superlink}: models can be read and changed on the way", hint)


def reports(context: Context) -> Result:
    """How the reports are protected on their way."""
    settings = settings_of(context)
    parts = urlsplit(settings.report_url or "")
    if parts.scheme == "https":
        return ok(f"TLS to {settings.report_url}")
    found = context.addresses_of(parts.hostname or "")
    if not found:
        return skipped(f"no TLS to {settings.report_url}, and {parts.hostname} cannot be resolved now")
    if not addresses.public_address(found):
        return ok(f"no TLS to {settings.report_url}: it is a loopback or tailnet address, where packets stay private")
    what = "reports and report-token" if settings.report_token else "reports"
    return warning(
        f"no TLS to {settings.report_url}: {what} can be read on the way", "use https, or the server's tailnet address"
    )


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
