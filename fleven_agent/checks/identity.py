"""The car's identity: whether it has joined, its key, and whether the server is the one that it trusts."""

import stat

from fleven_agent.checks.context import Context, configured
from fleven_agent.common.checks import Check, Result, error, ok, skipped, warning
from fleven_agent.identity import authority, decisions
from fleven_agent.identity.exchange import find_authority
from fleven_agent.identity.model import ExchangeError, Standing
from fleven_agent.monitoring.conditions import CATALOGUE
from fleven_agent.protocol.codes import ConditionCode

_JOIN = "`fleven-server nodes invite CAR` on the server prints what to run here: `fleven-agent join CODE`"


def _readable(context: Context) -> Result | None:
    """Return why nothing can be said of the identity, for a user who may not read it."""
    try:
        context.folder.peek()
    except OSError as caught:
        return skipped(f"{caught.filename}: {caught.strerror}; run the check as root")
    return None


def joined(context: Context) -> Result:
    """The server has let this car in."""
    if (unreadable := _readable(context)) is not None:
        return unreadable
    identity, loaded = context.identity, context.loaded
    if identity is None:
        if loaded is not None and decisions.wants_to_join(loaded.settings):
            return error("this car has not joined yet", _JOIN)
        return warning("this car has no identity: anybody can pretend to be it", _JOIN)
    match identity.standing:
        case Standing.ACCEPTED:
            return ok(f"joined as {identity.name}, partition {identity.partition_id}, car {identity.car_id}")
        case Standing.PENDING:
            text = f"waits for an operator to accept its key, {identity.key_fingerprint}"
            return warning(text, CATALOGUE[ConditionCode.ENROLMENT_PENDING].hint)
        case Standing.HELD:
            return error("is held: another board uses its identity", CATALOGUE[ConditionCode.IDENTITY_HELD].hint)
        case Standing.REVOKED | Standing.REJECTED:
            return error(f"an operator has {identity.standing.value} this car", _JOIN)
        case _:
            return warning("this car asks to join, and the server has not answered yet", _JOIN)


def wishes(context: Context) -> Result:
    """What node.toml wishes is what the server has bound."""
    if context.identity is None or context.identity.standing is not Standing.ACCEPTED or context.loaded is None:
        return skipped("this car has not joined")
    given, bound = context.loaded.settings, context.identity
    if given.partition_id not in (None, bound.partition_id):
        source = context.loaded.sources["partition-id"]
        message = f"{source} says partition-id = {given.partition_id}, the server has bound {bound.partition_id}"
        return warning(f"{message}, which counts", "write the same number, or join with another invitation")
    return ok(f"partition {bound.partition_id} as the server has bound it")


def key(context: Context) -> Result:
    """The key is there, is the one that the server knows, and is closed to others."""
    if (unreadable := _readable(context)) is not None:
        return unreadable
    if context.identity is None or context.loaded is None:
        return skipped("this car has no identity")
    if context.loaded.settings.auth_private_key is not None:
        return skipped("auth-private-key names a key of your own; see permissions.key")
    folder = context.folder
    try:
        status = folder.key.stat()
    except OSError as caught:
        return error(f"{folder.key}: {caught.strerror}", "the car has to join again: " + _JOIN)
    if folder.fingerprint_of(folder.key) != context.identity.key_fingerprint:
        return error(f"{folder.key} is not the key that the server knows", "the car has to join again: " + _JOIN)
    if stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        return warning(f"{folder.key} is open to others", f"chmod 600 {folder.key}")
    return ok(f"{folder.key}: {context.identity.key_fingerprint}")


def server(context: Context) -> Result:
    """The server has the authority that this car pinned."""
    if context.identity is None or context.loaded is None:
        return skipped("this car has pinned no authority")
    own = context.loaded.settings.reports.root_certificates or context.loaded.settings.root_certificates
    if own is not None:
        return skipped(f"the certificates in {own} vouch for the server")
    pinned = context.identity.ca_fingerprint
    where = decisions.server_addresses(context.loaded.settings, context.identity)
    try:
        found = find_authority(where, None, context.timeout_seconds)
    except ExchangeError as caught:
        return skipped(caught.message)
    known = authority.fingerprints(context.folder.read_authority() or found.bundle)
    if found.fingerprint in known or pinned in authority.fingerprints(found.bundle):
        return ok(f"{found.address} has the pinned authority {authority.shown(pinned)}")
    message = f"{found.address} has the authority {authority.shown(found.fingerprint)}, not {authority.shown(pinned)}"
    return error(message, CATALOGUE[ConditionCode.SERVER_CHANGED].hint)


CHECKS = (
    Check("identity.joined", "membership of the fleet", configured(joined)),
    Check("identity.wishes", "node.toml against the enrolment", configured(wishes)),
    Check("identity.key", "key of the car", configured(key)),
    Check("identity.server", "authority of the server", configured(server)),
)
