"""Reports that are kept for the next ones to change: whose they are, and how much they may take."""

from collections.abc import Callable

import pytest

from fleven.server.nodes.newest_reports import LARGEST_BYTES, NewestReports, OtherReportError
from fleven_agent.protocol.report import Report, ReportChange

Make = Callable[..., Report]


def change(sender: str, base: int, **patch: object) -> ReportChange:
    return ReportChange(sender_id=sender, base=base, patch={"sequence": base + 1, **patch})


def test_a_change_makes_the_next_report_of_the_newest_one_of_who_has_signed_it(report: Make) -> None:
    kept = NewestReports(2)
    kept.keep("car-1", report(sequence=4, state_reason="calm"))
    kept.keep("", report(sequence=4, state_reason="a stranger's"))
    made = kept.whole("car-1", change("a", 4, state="gated"))
    assert made is not None
    assert (made.sequence, made.state, made.state_reason) == (5, "gated", "calm")
    assert kept.whole("car-1", change("a", 3)) is None
    assert kept.whole("car-2", change("a", 4)) is None
    with pytest.raises(OtherReportError):
        kept.whole("car-1", change("a", 4, sender_id="b"))


def test_who_has_signed_keeps_one_report_under_whatever_sender_ids(report: Make) -> None:
    kept = NewestReports(10)
    for number in range(5):
        kept.keep("car-1", report(sender=f"s{number}", sequence=1))
    found = [kept.whole("car-1", change(f"s{number}", 1)) for number in range(5)]
    assert [one is not None for one in found] == [False, False, False, False, True]


def test_a_report_that_is_larger_than_those_of_cars_is_not_kept_and_nor_is_the_one_before(report: Make) -> None:
    kept = NewestReports(10)
    for signer in ("", "car-1"):
        kept.keep(signer, report(sequence=1))
        kept.keep(signer, report(sequence=2, finished_tasks=[{"run_id": "1", "log_tail": "x" * 19_000}] * 4))
        assert kept.whole(signer, change("a", 1)) is None
        assert kept.whole(signer, change("a", 2)) is None
        kept.keep(signer, report(sequence=3))
        assert kept.whole(signer, change("a", 3)) is not None


def test_strangers_take_so_much_in_all_and_push_out_each_other_and_no_car(report: Make) -> None:
    kept = NewestReports(1000, strangers_bytes=2 * LARGEST_BYTES)
    kept.keep("car-1", report(sequence=1))
    for number in range(100):
        kept.keep("", report(sender=f"s{number}", sequence=1, state_reason="x" * 3_900))
    found = [kept.whole("", change(f"s{number}", 1)) is not None for number in range(100)]
    assert 20 < sum(found) < 32  # of 4 to 6 kB each
    assert found[-1]
    assert found == sorted(found)
    assert kept.whole("car-1", change("a", 1)) is not None
