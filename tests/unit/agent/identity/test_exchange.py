"""Answers of the server about joining are read as the contract reads them, or refused in one sentence."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven_agent.identity import authority
from fleven_agent.identity.exchange import read_enrol_answer
from fleven_agent.identity.model import EnrolAnswer, ExchangeError, Standing, Trouble
from fleven_agent.protocol import enrolment


def test_an_answer_is_read_as_the_contract_reads_it() -> None:
    written = enrolment.EnrolAnswer(
        status="accepted",
        car_id="0123456789abcdef",
        name="car-3",
        partition_id=3,
        num_partitions=5,
        node_id="77",
        superlink_address="100.64.0.1:9092",
        superlink_transport="plain",
        message="welcome",
        hint="drive",
        retry_seconds=2.5,
    )
    assert read_enrol_answer(json.loads(written.model_dump_json())) == EnrolAnswer(
        Standing.ACCEPTED,
        "0123456789abcdef",
        "car-3",
        3,
        5,
        "77",
        "100.64.0.1:9092",
        False,
        "",
        "welcome",
        "drive",
        2.5,
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "new"},
        {"status": "forgotten"},
        {"status": 1},
        {"car_id": None},
        {"car_id": "../../etc"},
        {"partition_id": None},
        {"name": None},
        {"ca_certificates": "x"},
    ],
)
def test_an_answer_that_lacks_what_counts_is_refused(changed: dict[str, Any]) -> None:
    good = {"status": "accepted", "car_id": "c1", "name": "car-3", "partition_id": 3}
    assert read_enrol_answer(good).standing is Standing.ACCEPTED
    with pytest.raises(ExchangeError) as caught:
        read_enrol_answer({**good, **changed})
    assert caught.value.trouble is Trouble.DAMAGED


JSON = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.lists(st.integers()))


@given(st.dictionaries(st.sampled_from([*enrolment.EnrolAnswer.model_fields, "x"]), JSON))
def test_any_answer_is_read_or_refused(answer: dict[str, Any]) -> None:
    try:
        found = read_enrol_answer({"status": "pending", "car_id": "c1", **answer})
    except ExchangeError as error:
        text = error.message
        found = None
    else:
        text = "read"
    assert text
    if found is None:
        return
    assert found.partition_id is None or 0 <= found.partition_id < 2**31
    assert found.retry_seconds is None or found.retry_seconds >= 0


@pytest.mark.parametrize(
    "bundle",
    ["", "x", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nMIIB\n"],
)
def test_a_bundle_without_a_certificate_is_refused(bundle: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        authority.split(bundle)


def test_a_fingerprint_is_shown_in_groups() -> None:
    assert authority.shown("0123456789abcdef") == "01234567 89abcdef"
