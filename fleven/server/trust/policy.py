"""Which certificate is wanted now, and why it must be made again. Pure decisions over what certificates say.

Must not read files or the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from fleven.server.trust.certificates import CertificateFacts, Lifetimes

MAXIMUM_NAMES = 100
"""More names than this are not kept from one certificate to the next."""


class Renewal(StrEnum):
    """Why an authority or a certificate is made."""

    MISSING = "missing"
    UNUSABLE = "unusable"
    ENDS = "ends"
    NAMES = "names"
    AUTHORITY = "authority"
    ASKED = "asked"


def authority_renewal(
    present: CertificateFacts | None, public_key: bytes | None, now: datetime, lifetimes: Lifetimes
) -> Renewal | None:
    """Return why a new authority is wanted, or None.

    Args:
        present: the authority's certificate, or None when there is none.
        public_key: of the authority's key, or None when there is no usable one.
        now: the current moment.
        lifetimes: how long before its end it is replaced.
    """
    if present is None or public_key is None:
        return Renewal.MISSING
    if present.public_key != public_key:
        return Renewal.UNUSABLE
    return Renewal.ENDS if present.ends - now <= lifetimes.replace_authority else None


def server_renewal(
    present: CertificateFacts | None,
    public_key: bytes | None,
    authority: CertificateFacts,
    wanted: frozenset[str],
    now: datetime,
    lifetimes: Lifetimes,
) -> Renewal | None:
    """Return why a new server certificate is wanted, or None.

    A name that it holds beyond the wanted ones is no reason: an address that a machine has lost may come back.

    Args:
        present: the certificate, or None when there is none.
        public_key: of the server's key, or None when there is no usable one.
        authority: who is to have signed it.
        wanted: names and addresses that it must hold for.
        now: the current moment.
        lifetimes: how long before its end it is replaced.
    """
    if present is None or public_key is None:
        return Renewal.MISSING
    if present.public_key != public_key:
        return Renewal.UNUSABLE
    if present.issuer_key_id != authority.key_id:
        return Renewal.AUTHORITY
    # A certificate that ends with its authority cannot be made to last longer.
    if present.ends - now <= lifetimes.replace_server and present.ends < authority.ends:
        return Renewal.ENDS
    return None if wanted <= present.names else Renewal.NAMES


def names_to_certify(wanted: frozenset[str], present: CertificateFacts | None, renewal: Renewal) -> frozenset[str]:
    """Return the names of the next certificate.

    A machine that moves between two networks would else get another certificate at each move: while only names change,
    those of before are kept.
    """
    if renewal is not Renewal.NAMES or present is None:
        return wanted
    kept = wanted | present.names
    return kept if len(kept) <= MAXIMUM_NAMES else wanted


def still_trusted(replaced: Sequence[CertificateFacts], now: datetime) -> list[bool]:
    """Return for each replaced authority whether cars must still be told of it: until its end."""
    return [now < one.ends for one in replaced]
