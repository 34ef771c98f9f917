"""When certificates end, and what is said of it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from certificates import write_certificates

from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig
from fleven.server.trust import ends
from fleven.server.trust.ends import End, Outlook
from fleven.server.trust.files import TrustFiles

NOW = datetime(2026, 11, 28, tzinfo=UTC)


@pytest.mark.parametrize(
    ("left", "by_itself", "outlook", "text"),
    [
        (timedelta(days=31), False, Outlook.FINE, "x ends in 31 d, on 2026-12-29"),
        (timedelta(days=29, hours=23), False, Outlook.SOON, "x ends in 29 d, on 2026-12-27"),
        (timedelta(days=29, hours=12), True, Outlook.FINE, "x ends in 29 d, on 2026-12-27"),
        (timedelta(days=28), True, Outlook.SOON, "x ends in 28 d, on 2026-12-26"),
        (timedelta(minutes=90), False, Outlook.SOON, "x ends in 1.5 h, on 2026-11-28"),
        (
            timedelta(0),
            True,
            Outlook.ENDED,
            "x ended on 2026-11-28 00:00 UTC: nobody who checks it can connect any more",
        ),
    ],
)
def test_an_end_is_told_thirty_days_ahead(left: timedelta, by_itself: bool, outlook: Outlook, text: str) -> None:
    end = End("x", NOW + left, by_itself, "")
    assert end.outlook(NOW) is outlook
    assert end.text(NOW) == text
    assert (ends.to_tell([end], NOW) == [end]) is (outlook is not Outlook.FINE)


def test_what_ends_first_is_told_first_and_the_register_keeps_it() -> None:
    found = [End("later", NOW + timedelta(days=3), True, "a"), End("first", NOW, False, "b")]
    assert [end.name for end in ends.to_tell(found, NOW)] == ["first", "later"]
    assert ends.ends_of_fact(ends.fact_of_ends(found)) == found
    assert ends.ends_of_fact({}) == []


def test_the_operators_certificates_count_too(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    TrustFiles(paths.trust).bring_up_to_date(datetime.now(UTC), lambda: frozenset({"fleven-server"}))
    given = write_certificates(tmp_path / "given", days=3)
    config = ServerConfig.model_validate(
        {
            "superlink": {
                "certificate": given / "server.crt",
                "private-key": given / "server.key",
                "root-certificates": given / "ca.crt",
            },
            "web": {"certificate": given / "server.crt", "private-key": given / "server.key"},
        }
    )
    found = {end.name: end for end in ends.certificate_ends(config, paths)}
    assert set(found) == {
        *("authority", "server certificate", "superlink.certificate", "superlink.root-certificates"),
        "web.certificate",
    }
    soon = [end.name for end in ends.to_tell(found.values(), datetime.now(UTC))]
    assert sorted(soon) == ["superlink.certificate", "superlink.root-certificates", "web.certificate"]
    (given / "server.crt").write_text("nothing")
    assert "web.certificate" not in {end.name for end in ends.certificate_ends(config, paths)}
