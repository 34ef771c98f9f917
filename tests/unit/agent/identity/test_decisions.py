"""What comes next for an identity, and what follows from it: decided without a clock, a file or a server."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleven_agent.config.settings import Settings
from fleven_agent.identity import decisions
from fleven_agent.identity.decisions import Facts, Problem, Step
from fleven_agent.identity.model import EnrolAnswer, Identity, Standing, Trouble
from fleven_agent.identity.secure_http import Trust
from fleven_agent.protocol.join_code import JoinCode, encode

KEY, CA = Path("/state/identity/node.key"), Path("/state/identity/ca.crt")
CODE = JoinCode(("10.0.0.1:9190", "10.0.0.2:9190"), "ab" * 32, "01234567", "s" * 22)
SECURE = Settings(partition_id=3, superlink="10.0.0.1:9092", insecure=False, report_url="https://10.0.0.1:9190")
OPEN = replace(SECURE, insecure=True, report_url="http://10.0.0.1:9190")
INVITED = replace(SECURE, partition_id=None, join=encode(CODE))
IDENTITY = Identity(key_fingerprint="SHA256:x", secret="t0p", ca_fingerprint="cd" * 32)
ACCEPTED = replace(IDENTITY, standing=Standing.ACCEPTED, car_id="c1", name="car-7", partition_id=7, superlink_tls=True)
STANDINGS = st.sampled_from(Standing)
TROUBLES = st.sampled_from(Trouble)


def at(standing: Standing) -> Identity:
    return replace(ACCEPTED, standing=standing)


@pytest.mark.parametrize(
    ("settings", "identity", "expected"),
    [
        (SECURE, None, Step.ENROL),
        (OPEN, None, Step.ENROL),
        (SECURE, IDENTITY, Step.ENROL),
        (SECURE, at(Standing.PENDING), Step.ENROL),
        (SECURE, at(Standing.REJECTED), Step.ENROL),
        (SECURE, at(Standing.HELD), Step.ENROL),
        (SECURE, at(Standing.FORGOTTEN), Step.ENROL),
        (SECURE, ACCEPTED, None),
        (SECURE, at(Standing.REVOKED), None),
        (INVITED, at(Standing.REVOKED), Step.ENROL),
        (INVITED, replace(at(Standing.REVOKED), invitation_id="01234567"), None),
    ],
)
def test_a_car_asks_until_it_is_let_in_and_never_again_once_revoked(
    settings: Settings, identity: Identity | None, expected: Step | None
) -> None:
    assert decisions.next_step(Facts(settings, identity)) is expected


def test_a_key_is_changed_between_two_tasks_and_only_a_key_of_the_cars_own() -> None:
    asked = Facts(SECURE, ACCEPTED, rotate=True)
    assert decisions.next_step(asked) is Step.ROTATE
    assert decisions.next_step(replace(asked, task_active=True)) is None
    assert decisions.next_step(replace(asked, settings=replace(SECURE, auth_private_key="/k"))) is None
    assert decisions.next_step(replace(asked, identity=at(Standing.HELD))) is Step.ENROL


def test_a_doubtful_authority_is_looked_at_by_a_car_that_has_joined() -> None:
    assert decisions.next_step(Facts(SECURE, ACCEPTED, doubtful=True)) is Step.LOOK


@pytest.mark.parametrize(
    ("standing", "invited", "expected"),
    [
        (Standing.FORGOTTEN, False, True),
        (Standing.REVOKED, True, True),
        (Standing.REJECTED, True, True),
        (Standing.REJECTED, False, False),
        (Standing.PENDING, True, False),
        (Standing.NEW, False, False),
    ],
)
def test_a_key_that_was_removed_never_comes_back(standing: Standing, invited: bool, expected: bool) -> None:
    assert decisions.needs_new_key(at(standing), invited=invited) is expected


@given(STANDINGS, st.one_of(st.none(), TROUBLES), st.one_of(st.none(), st.floats(0, 1e6)), st.integers(0, 2_000))
def test_a_question_is_repeated_soon_but_never_at_once(
    standing: Standing, trouble: Trouble | None, told: float | None, failures: int
) -> None:
    problem = None if trouble is None else Problem(trouble, "no")
    seconds = decisions.wait_seconds(at(standing), problem, told, failures)
    assert seconds >= 1.0
    if problem is None and standing not in (Standing.REJECTED, Standing.REVOKED):
        assert seconds <= decisions.SLOW_SECONDS


def test_who_has_no_identity_yet_gets_its_first_key_anyway() -> None:
    assert not decisions.needs_new_key(None, invited=True)


def test_waits_grow_with_failures_and_follow_the_server() -> None:
    away = Problem(Trouble.UNREACHABLE, "no")
    assert [decisions.wait_seconds(IDENTITY, away, None, n) for n in (1, 2, 3, 9)] == [2.0, 4.0, 8.0, 60.0]
    assert decisions.wait_seconds(IDENTITY, Problem(Trouble.BUSY, "no"), 90.0, 1) == 90.0
    assert decisions.wait_seconds(at(Standing.PENDING), None, 5.0, 0) == 5.0
    assert decisions.wait_seconds(at(Standing.PENDING), None, None, 0) == decisions.PENDING_SECONDS
    assert decisions.wait_seconds(at(Standing.REJECTED), None, 5.0, 0) == decisions.SLOW_SECONDS
    assert decisions.wait_seconds(None, Problem(Trouble.NOT_OFFERED, "no"), None, 1) == decisions.SLOW_SECONDS


def test_the_enrolment_wins_over_the_wishes_of_node_toml() -> None:
    found = decisions.effective(SECURE, ACCEPTED, KEY, CA)
    assert (found.partition_id, found.node_name, found.superlink) == (7, "car-7", "10.0.0.1:9092")
    assert (found.root_certificates, found.auth_private_key, found.insecure) == (str(CA), str(KEY), False)
    assert decisions.effective(OPEN, at(Standing.PENDING), KEY, CA).partition_id == 3


def test_a_fleet_that_is_open_stays_so_until_the_server_says_tls_and_never_again_after_that() -> None:
    still_open = replace(ACCEPTED, superlink_tls=False)
    assert decisions.effective(OPEN, still_open, KEY, CA).root_certificates is None
    assert decisions.effective(OPEN, still_open, KEY, CA).auth_private_key is None
    for standing in Standing:
        found = decisions.effective(OPEN, at(standing), KEY, CA)
        assert (found.insecure, found.root_certificates) == (False, str(CA)), standing


def test_the_operators_own_certificates_and_key_win() -> None:
    own = replace(SECURE, root_certificates="/own/ca.pem", auth_private_key="/own/key")
    found = decisions.effective(own, ACCEPTED, KEY, CA)
    assert (found.root_certificates, found.auth_private_key) == ("/own/ca.pem", "/own/key")
    access = decisions.report_access(own, ACCEPTED, CA)
    assert access is not None
    assert access.trust == Trust("/own/ca.pem", None)


def test_an_invited_car_learns_where_the_superlink_is() -> None:
    assert decisions.superlink_of(CODE) == "10.0.0.1:9092"
    settings = replace(INVITED, superlink="10.0.0.1:9092")
    told = replace(ACCEPTED, superlink_address="10.0.0.2:9555")
    assert decisions.effective(settings, told, KEY, CA).superlink == "10.0.0.2:9555"
    assert decisions.effective(replace(settings, superlink="server:9092"), told, KEY, CA).superlink == "server:9092"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("", "10.0.0.1:9092"),
        ("0.0.0.0:9555", "10.0.0.1:9555"),
        ("127.0.0.1:9555", "10.0.0.1:9555"),
        ("fleet.example:9555", "fleet.example:9555"),
        ("no address", "10.0.0.1:9092"),
    ],
)
def test_the_superlink_is_where_the_server_was_reached_unless_it_says_more(told: str, expected: str) -> None:
    assert decisions.superlink_address("10.0.0.1:9190", told) == expected


def test_the_secret_travels_inside_tls_only() -> None:
    for settings in (SECURE, OPEN, replace(OPEN, report_url="http://proxy:8080/fleet")):
        access = decisions.report_access(settings, ACCEPTED, CA)
        assert access is not None
        assert access.url.startswith("https://")
        assert access.bearer == "c1.t0p"
    assert access.url == "https://proxy:8080/fleet"


@given(STANDINGS, st.booleans(), st.booleans())
def test_no_secret_is_sent_but_by_a_car_that_was_let_in(standing: Standing, tls: bool, insecure: bool) -> None:
    identity = replace(at(standing), superlink_tls=tls)
    access = decisions.report_access(OPEN if insecure else SECURE, identity, CA)
    if standing is not Standing.ACCEPTED and access is not None:
        assert insecure
        assert access.bearer is None
    if access is not None and not insecure:
        assert access.url.startswith("https://")


@given(STANDINGS, st.one_of(st.none(), TROUBLES), st.booleans(), st.booleans(), st.booleans())
def test_a_car_that_takes_tls_alone_trains_only_when_it_was_let_in(
    standing: Standing, trouble: Trouble | None, tls: bool, has_identity: bool, demanded: bool
) -> None:
    identity = replace(at(standing), superlink_tls=tls) if has_identity else None
    problem = None if trouble is None else Problem(trouble, "no")
    said = decisions.standings(Facts(SECURE, identity, problem, demanded=demanded))
    may = has_identity and standing is Standing.ACCEPTED and tls
    assert (said.gate == "") == may
    assert any((said.pending, said.refused, said.held, said.changed, said.plain_refused)) or may


@given(STANDINGS, st.one_of(st.none(), TROUBLES))
def test_an_open_car_trains_unless_it_was_revoked_or_is_held(standing: Standing, trouble: Trouble | None) -> None:
    problem = None if trouble is None else Problem(trouble, "no")
    said = decisions.standings(Facts(OPEN, at(standing), problem))
    assert bool(said.gate) == (standing in (Standing.REVOKED, Standing.HELD))


def test_a_car_without_a_partition_waits_whatever_is_allowed() -> None:
    settings = replace(INVITED, insecure=True)
    assert decisions.standings(Facts(settings, None)).gate
    assert decisions.report_access(settings, None, CA) is None


def test_open_doors_are_said_except_on_this_machine() -> None:
    assert "models can be read" in decisions.standings(Facts(OPEN, None)).plain
    assert decisions.standings(Facts(OPEN, ACCEPTED)).plain == ""
    for host in ("127.0.0.1:9092", "localhost:9092", "[::1]:9092"):
        assert decisions.standings(Facts(replace(OPEN, superlink=host), None)).plain == ""


def test_with_certificates_of_the_operators_own_nothing_is_shut_but_by_the_server() -> None:
    own = replace(SECURE, root_certificates="/own/ca.pem")
    assert decisions.standings(Facts(own, None)).gate == ""
    assert decisions.standings(Facts(own, at(Standing.REVOKED))).gate


def test_what_the_server_answers_is_bound_and_tls_is_never_unlearnt() -> None:
    answer = EnrolAnswer(Standing.ACCEPTED, "c1", "car-7", 7, 9, "55", "", False, "", "m", "h", None)
    found = decisions.answered(ACCEPTED, answer, reached="10.0.0.2:9190", invited=True, stamp="now")
    assert (found.server_address, found.superlink_address) == ("10.0.0.2:9190", "10.0.0.2:9092")
    assert (found.superlink_tls, found.node_id, found.num_partitions, found.enrolled_at) == (True, "55", 9, "now")
    pending = decisions.answered(
        IDENTITY, replace(answer, standing=Standing.PENDING), reached="10.0.0.2:9190", invited=False, stamp="now"
    )
    assert (pending.partition_id, pending.name, pending.server_address, pending.enrolled_at) == (None, "", "", "")


def test_a_join_code_leads_to_its_servers_and_node_toml_to_its_own() -> None:
    assert decisions.server_addresses(INVITED, None) == CODE.server_addresses
    assert decisions.server_addresses(SECURE, None) == ("10.0.0.1:9190",)
    invited = replace(ACCEPTED, server_address="10.0.0.9:443")
    assert decisions.server_addresses(SECURE, invited) == ("10.0.0.9:443",)
    elsewhere = replace(SECURE, report_url="https://proxy")
    assert decisions.server_addresses(elsewhere, invited) == ("proxy:443",)


def test_how_long_a_car_waits_is_bounded_from_below_and_above() -> None:
    away = Problem(Trouble.UNREACHABLE, "no")
    assert (decisions.PENDING_SECONDS, decisions.SLOW_SECONDS) == (15.0, 600.0)
    assert decisions.wait_seconds(None, away, None, 0) == 2.0
    assert decisions.wait_seconds(None, Problem(Trouble.OTHER_NAME, "no"), 90.0, 1) == 90.0
    assert decisions.wait_seconds(None, Problem(Trouble.REFUSED, "no"), 0.0, 1) == decisions.RETRY_MAXIMUM_SECONDS
    assert decisions.wait_seconds(at(Standing.REVOKED), None, 900.0, 0) == 900.0
    assert decisions.wait_seconds(at(Standing.PENDING), None, 0.0, 0) == 1.0
    assert decisions.wait_seconds(at(Standing.PENDING), None, 1e6, 0) == decisions.SLOW_SECONDS


def test_a_join_code_that_cannot_be_read_is_none() -> None:
    assert decisions.code_of(replace(SECURE, join="fleven1.nonsense")) is None


@pytest.mark.parametrize("standing", [Standing.ACCEPTED, Standing.HELD])
def test_a_car_that_is_let_in_is_not_invited_anew(standing: Standing) -> None:
    assert not decisions.invited_anew(INVITED, at(standing))


@pytest.mark.parametrize(
    ("report_url", "expected"),
    [
        (None, "10.0.0.1:9190"),
        ("http://proxy/fleet", "proxy:80"),
        ("https://proxy/fleet", "proxy:443"),
        ("https://proxy:8443", "proxy:8443"),
    ],
)
def test_the_web_port_is_where_node_toml_leads(report_url: str | None, expected: str) -> None:
    assert decisions.server_addresses(replace(SECURE, report_url=report_url), None) == (expected,)


def test_reports_of_a_car_that_has_not_joined() -> None:
    assert decisions.report_access(SECURE, None, CA) is None, "it could not tell who answers"
    open_access = decisions.report_access(replace(OPEN, report_token="fleet"), None, CA)
    assert open_access == decisions.ReportAccess("http://10.0.0.1:9190", Trust(None, None), "fleet")
    own = replace(SECURE, root_certificates="/own/ca.pem", report_url="http://proxy/to?next=http://x")
    assert decisions.report_access(own, None, CA) == decisions.ReportAccess(
        "https://proxy/to?next=http://x", Trust("/own/ca.pem", None), None
    )


def test_the_number_of_partitions_is_the_servers_where_it_says_one() -> None:
    settings = replace(SECURE, num_partitions=4)
    assert decisions.effective(settings, ACCEPTED, KEY, CA).num_partitions == 4
    assert decisions.effective(settings, replace(ACCEPTED, num_partitions=9), KEY, CA).num_partitions == 9


def test_what_is_said_of_each_standing() -> None:
    revoked, rejected = (decisions.standings(Facts(SECURE, at(one))) for one in (Standing.REVOKED, Standing.REJECTED))
    assert revoked.refused == revoked.gate == "an operator has revoked this car (its key is SHA256:x)"
    assert rejected.refused == rejected.gate == "an operator has rejected this car (its key is SHA256:x)"
    assert decisions.standings(Facts(OPEN, at(Standing.REJECTED))).gate == ""
    pending = decisions.standings(Facts(replace(SECURE, node_name="pi-3"), at(Standing.PENDING))).pending
    assert pending.startswith("pi-3 waits for an operator to accept it (its key is SHA256:x); the server's authority")
    assert decisions.standings(Facts(SECURE, at(Standing.PENDING))).pending.startswith("this car waits")
    assert decisions.standings(Facts(SECURE, None)).pending == "this car has not joined yet"


def test_an_open_car_says_nothing_of_joining_unless_the_server_demands_it() -> None:
    assert decisions.standings(Facts(OPEN, None)).pending == ""
    assert decisions.standings(Facts(OPEN, IDENTITY)).pending == ""
    assert decisions.standings(Facts(OPEN, None, demanded=True)).pending == "this car has not joined yet"
    assert "waits for an operator" in decisions.standings(Facts(OPEN, at(Standing.PENDING))).pending


def test_another_authority_is_told_apart_from_what_is_refused() -> None:
    other = decisions.standings(Facts(SECURE, IDENTITY, Problem(Trouble.OTHER_AUTHORITY, "another", "look")))
    assert (other.changed, other.changed_hint, other.refused, other.gate) == ("another", "look", "", "another")
    assert other.pending == ""
    broken = decisions.standings(Facts(SECURE, IDENTITY, Problem(Trouble.KEY, "no key", "make one")))
    assert (broken.changed, broken.refused, broken.refused_hint, broken.gate) == ("", "no key", "make one", "no key")
    assert broken.pending == ""
    away = decisions.standings(Facts(SECURE, IDENTITY, Problem(Trouble.UNREACHABLE, "no way")))
    assert (away.changed, away.refused, away.pending) == ("", "", "this car has not joined yet: no way")


def test_a_superlink_without_tls_is_refused_by_a_car_that_takes_nothing_else() -> None:
    plain = replace(ACCEPTED, superlink_tls=False)
    refused = decisions.standings(Facts(SECURE, plain))
    assert refused.plain_refused
    assert refused.gate == refused.plain == "the SuperLink does not use TLS, and this car accepts nothing else"
    said = decisions.standings(Facts(OPEN, plain))
    assert not said.plain_refused
    assert "models can be read" in said.plain
    assert not decisions.Standings().plain_refused
