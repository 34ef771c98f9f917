"""What a client may cost is bounded: bytes, unpacked bytes, requests a second."""

import contextlib
import gzip

import pytest
from hand_clock import HandClock
from hypothesis import given
from hypothesis import strategies as st

from fleven.server.http.rate_limit import RateLimiter
from fleven.server.http.request_body import BodyMalformedError, BodyTooLargeError, unpack_gzip


@given(st.binary(max_size=2000))
def test_what_fits_is_unpacked_unchanged(content: bytes) -> None:
    assert unpack_gzip(gzip.compress(content), 2000) == content


def test_a_small_body_that_unpacks_to_much_is_refused() -> None:
    bomb = gzip.compress(b"\0" * 10_000_000)
    assert len(bomb) < 20_000
    with pytest.raises(BodyTooLargeError) as caught:
        unpack_gzip(bomb, 1_000_000)
    assert caught.value.unpacked
    assert caught.value.limit_bytes == 1_000_000


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_the_named_errors(packed: bytes) -> None:
    with contextlib.suppress(BodyMalformedError, BodyTooLargeError):
        unpack_gzip(packed, 100)


def test_a_body_cut_at_any_byte_is_malformed() -> None:
    packed = gzip.compress(b"a report" * 20)
    for length in range(len(packed)):
        with pytest.raises(BodyMalformedError):
            unpack_gzip(packed[:length], 1000)


def test_bytes_after_the_body_are_malformed() -> None:
    with pytest.raises(BodyMalformedError, match="follow"):
        unpack_gzip(gzip.compress(b"x") + b"y", 1000)


def test_a_burst_passes_then_one_request_each_period() -> None:
    clock = HandClock(100.0)
    limiter = RateLimiter(per_second=2.0, burst=3, monotonic=clock)
    assert [limiter.wait_seconds("a") for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limiter.wait_seconds("a") == pytest.approx(0.5)
    assert limiter.wait_seconds("b") == 0.0
    clock.now += 0.5
    assert limiter.wait_seconds("a") == 0.0
    assert limiter.wait_seconds("a") > 0.0


def test_a_clock_that_goes_back_gives_no_tokens() -> None:
    clock = HandClock(100.0)
    limiter = RateLimiter(per_second=1.0, burst=1, monotonic=clock)
    limiter.wait_seconds("a")
    clock.now -= 50
    assert limiter.wait_seconds("a") == pytest.approx(1.0)


def test_the_memory_of_keys_is_bounded() -> None:
    limiter = RateLimiter(per_second=1.0, burst=1, monotonic=HandClock(100.0), maximum_keys=10)
    for number in range(1000):
        limiter.wait_seconds(str(number))
    assert len(limiter._buckets) == 10


def test_bytes_beyond_what_is_there_are_a_debt() -> None:
    clock = HandClock(100.0)
    limiter = RateLimiter(per_second=10.0, burst=100, monotonic=clock)
    assert limiter.wait_seconds("a", 300) == 0.0
    assert limiter.wait_seconds("a", 1) == pytest.approx(20.1)
    clock.now += 21
    assert limiter.wait_seconds("a", 1) == 0.0
    assert limiter.wait_seconds("b", 100) == 0.0
