"""When what the fleet trusts ends: authority, certificates, those of the operator too, and Tailscale's key.

A certificate that has ended looks like a broken network from afar, so its end is told 30 days ahead, everywhere. The
judgement is pure; only `certificate_ends` reads files. Must not import the register.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig
from fleven.server.trust.certificates import bundle_facts
from fleven.server.trust.files import trust_files

WARNING = timedelta(days=30)
OVERDUE = timedelta(days=1)
"""The server's own certificate is renewed 30 days before its end: only when that fails there is something to tell."""
RENEW_BY_HAND = "renew it; the server takes the new file by itself, the SuperLink between two runs"


class Outlook(StrEnum):
    """How soon something ends."""

    FINE = "fine"
    SOON = "soon"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class End:
    """Something that ends.

    Attributes:
        name: what it is: a key of server.toml, or a word of this server's own.
        ends: when.
        by_itself: whether the server renews it.
        hint: what to do about it.
    """

    name: str
    ends: datetime
    by_itself: bool
    hint: str

    def outlook(self, now: datetime) -> Outlook:
        """Return how soon it ends."""
        if self.ends <= now:
            return Outlook.ENDED
        notice = WARNING - OVERDUE if self.by_itself else WARNING
        return Outlook.SOON if self.ends - now < notice else Outlook.FINE

    def text(self, now: datetime) -> str:
        """Return one line for people."""
        if self.ends <= now:
            return f"{self.name} ended on {self.ends:%Y-%m-%d %H:%M} UTC: nobody who checks it can connect any more"
        left = self.ends - now
        in_time = f"{left.days} d" if left >= timedelta(days=1) else f"{left.total_seconds() / 3600:.1f} h"
        return f"{self.name} ends in {in_time}, on {self.ends:%Y-%m-%d}"


AUTHORITY, SERVER, TAILSCALE = "authority", "server certificate", "Tailscale key"


def certificate_ends(config: ServerConfig, paths: Paths) -> list[End]:
    """Return the ends of every certificate that this server uses; a file that cannot be read is left out.

    Raises:
        PermissionError: this user may not look.
    """
    files = trust_files(paths)
    found = [
        (AUTHORITY, files.authority_bundle, True, "fleven-server trust status"),
        (SERVER, files.server_certificate, True, "journalctl -u fleven-server | grep renewal-failed"),
    ]
    superlink, web = config.superlink, config.web
    for key, file in (
        ("superlink.certificate", superlink.certificate),
        ("superlink.root-certificates", superlink.root_certificates),
        ("web.certificate", web.certificate),
    ):
        if file is not None:
            found.append((key, file, False, RENEW_BY_HAND))
    ends = [(name, first_end(file, whole=not own), own, hint) for name, file, own, hint in found]
    return [End(name, moment, own, hint) for name, moment, own, hint in ends if moment is not None]


def first_end(file: Path, *, whole: bool) -> datetime | None:
    """Return when a certificate file ends; None when it cannot be read as one.

    Args:
        file: PEM.
        whole: the first of all its certificates to end counts, and not the first certificate.
    """
    try:
        facts = bundle_facts(file.read_bytes())
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return None
    return min(one.ends for one in facts) if whole else facts[0].ends


def tailscale_end(key_ends: datetime) -> End:
    """Return the end of Tailscale's key on this machine."""
    return End(TAILSCALE, key_ends, False, "sudo tailscale up --force-reauth, or disable key expiry for this machine")


def to_tell(ends: Iterable[End], now: datetime) -> list[End]:
    """Return what ends soon or has ended, the first to end first."""
    return sorted((end for end in ends if end.outlook(now) is not Outlook.FINE), key=lambda end: end.ends)


def fact_of_ends(ends: Iterable[End]) -> dict[str, Any]:
    """Return ends as the register keeps them for the other processes."""
    return {
        "ends": [
            {"name": end.name, "ends": end.ends.isoformat(), "by_itself": end.by_itself, "hint": end.hint}
            for end in ends
        ]
    }


def ends_of_fact(fact: Mapping[str, Any]) -> list[End]:
    """Return the ends that `fact_of_ends` has written."""
    return [
        End(one["name"], datetime.fromisoformat(one["ends"]), one["by_itself"], one["hint"])
        for one in fact.get("ends", [])
    ]
