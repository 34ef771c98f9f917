"""Secrets that the server makes: session cookies, one-time links, API tokens, forms' tokens. Each is 256 random bits.

Only their SHA-256 is kept: nobody guesses such a value, so the slow hash of a password would protect nothing more.
Imports the standard library only.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
"""32 bytes in URL-safe base64 without padding."""
API_TOKEN = re.compile(r"fleven_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
"""Its beginning lets secret scanners find one that was committed by mistake."""


def new_secret() -> str:
    """Return a new secret of 43 characters."""
    return secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """Return what the register keeps of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(secret: str, kept: str) -> bool:
    """Return whether a secret is the one that was kept, in constant time."""
    return hmac.compare_digest(digest(secret), kept)


class NewToken(NamedTuple):
    """A token that was just made: its public key in the register, and the text that is shown once."""

    key: str
    secret: str
    text: str


def new_api_token() -> NewToken:
    """Return a new API token."""
    key, secret = secrets.token_hex(4), new_secret()
    return NewToken(key, secret, f"fleven_{key}_{secret}")


def split_api_token(text: str) -> tuple[str, str] | None:
    """Return key and secret of an API token; None for any other text."""
    found = API_TOKEN.fullmatch(text)
    return None if found is None else (found[1], found[2])


def form_token(cookie: str) -> str:
    """Return what the forms of a page carry, made from the cookie that only this site's own requests bear.

    Another site can make a browser send the cookie, but cannot read it, and so cannot fill in the form.
    """
    made = hmac.digest(cookie.encode(), b"fleven form", "sha256")
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


def form_token_fits(cookie: str, given: str) -> bool:
    """Return whether a form was made for this cookie."""
    return bool(SECRET.fullmatch(cookie)) and hmac.compare_digest(form_token(cookie).encode(), given.encode())
