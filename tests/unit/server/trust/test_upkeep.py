"""How long certificates are made to hold."""

from datetime import timedelta

import pytest

from fleven.server.errors import ConfigurationError
from fleven.server.trust.certificates import Lifetimes
from fleven.server.trust.upkeep import CERTIFICATE_SECONDS, lifetimes_from


def test_a_short_life_is_for_trying_out_renewal() -> None:
    assert lifetimes_from({}) == lifetimes_from({CERTIFICATE_SECONDS: ""}) == Lifetimes()
    short = lifetimes_from({CERTIFICATE_SECONDS: "120"})
    assert (short.server, short.replace_server) == (timedelta(seconds=120), timedelta(seconds=80))
    long = lifetimes_from({CERTIFICATE_SECONDS: str(90 * 86_400)})
    assert long.replace_server == Lifetimes().replace_server
    assert (short.authority, short.replace_authority) == (Lifetimes().authority, Lifetimes().replace_authority)


@pytest.mark.parametrize("text", ["59", "-120", "1e3", "two minutes", "9" * 12])
def test_a_life_that_cannot_be_used_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match=CERTIFICATE_SECONDS):
        lifetimes_from({CERTIFICATE_SECONDS: text})
