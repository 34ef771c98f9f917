"""Texts of dates and times to seconds: the spellings of loggers, in the languages that loggers speak.

Works on each different text once. pyarrow and numpy only; must not import torch or flwr.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Beginnings of the months' names in English, Portuguese, Spanish, German, French, Italian, Dutch, without accents.
_MONTHS: Final = (
    *("jan|ene|gen", "feb|fev", "mar|mrz|maa|mae", "apr|abr|avr", "may|mai|mei|mag", "jun|juin|giu"),
    *("jul|juil|lug", "aug|ago|aou", "sep|set", "oct|okt|out|ott", "nov", "dec|dez|dic"),
)
# Regular expressions of this module are RE2's, which pyarrow runs; texts are in lower case, months are `m03`.
_CLOCK: Final = (
    r"(?P<h>\d{1,2})[:h](?P<mi>\d{2})(?:[:m](?P<s>\d{2})(?P<fs>[.,:](?P<f>\d{1,9}))?s?)?"
    r"(?: ?(?P<p>[ap])\.? ?m\.?)?(?: ?(?P<z>z|(?:utc|gmt)?[+\-]\d{2}(?::?\d{2})?|[a-z]{2,5}))?"
)
_COMPACT_CLOCK: Final = r"(?P<h>\d{2})(?P<mi>\d{2})(?P<s>\d{2})(?:[.,](?P<f>\d{1,9}))?(?P<z>z)?"
_WEEKDAY: Final = r"^(?:[a-z]{2,10}[,.]{0,2} )?"
_DATE: Final = r"(?P<a>\d{1,4})[\-/. ]{1,2}(?P<b>m?\d{1,2})[\-/. ]{1,2}(?P<c>\d{1,4})"
_DATE_TIMES: Final = (
    rf"{_WEEKDAY}{_DATE}[,t_ \-]{{1,3}}{_CLOCK}$",
    rf"{_WEEKDAY}(?P<b>m\d{{2}}) (?P<a>\d{{1,2}}),? (?P<c>\d{{4}}),? {_CLOCK}$",
    rf"{_WEEKDAY}(?P<b>m\d{{2}}) (?P<a>\d{{1,2}}),? {_CLOCK} (?P<c>\d{{4}})$",
    rf"^(?P<a>\d{{4}})(?P<b>\d{{2}})(?P<c>\d{{2}})[t_ \-]{{0,3}}(?:{_COMPACT_CLOCK})$",
    rf"^(?P<a>\d{{4}})(?P<b>\d{{2}})(?P<c>\d{{2}})[t_ \-]{{1,3}}(?:{_CLOCK})$",
)
_COMPACT: Final = (
    r"^(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])[t_ \-]?(?:[01]\d|2[0-3])[0-5]\d[0-5]\d(?:[.,]\d+)?z?$"
)
# Points or dashes in place of a clock's colons: `10.17.01`, after a date and alone.
_POINTS: Final = r"(\d[t_ \-]+)(\d{1,2})[.\-](\d{2})[.\-](\d{2})([.,: ap]|$)"
_POINTS_ALONE: Final = r"^()(\d{1,2})[.\-](\d{2})[.\-](\d{2})([.,: ap]|$)"
_DURATION: Final = (
    r"^(?:(?P<d>\d+) days?,? )?(?:(?P<h>\d+)[:h])?(?P<mi>\d+)[:m](?P<s>\d{1,2})(?P<fs>[.,:](?P<f>\d+))?s?"
    r"(?: ?(?P<p>[ap])\.? ?m\.?)?$"
)
_SHORT_TIME: Final = r"^(?P<h>\d{1,2})[:h.](?P<mi>\d{2})(?: ?(?P<p>[ap])\.? ?m\.?)$"
# Minutes, seconds and one digit: how spreadsheets show a time of day by default, its hours dropped when saved.
_HOURS_DROPPED: Final = r"^[0-5]\d:[0-5]\d[.,]\d$"


@dataclass(frozen=True, slots=True)
class Stamps:
    """Seconds since 1970 UTC [texts], NaN where a text is no date and time.

    `guessed_first` is `day` or `month` where these could be swapped and nothing in the log decides.
    """

    seconds: NDArray[np.float64]
    guessed_first: str = ""


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds since some start or midnight [texts], NaN for anything else.

    `hours_dropped`: the texts have minutes and seconds as a spreadsheet leaves them. `twelve_hours`: the hours run
    from 1 to 12 and nothing tells morning from afternoon.
    """

    seconds: NDArray[np.float64]
    hours_dropped: bool = False
    twelve_hours: bool = False


def is_compact(texts: Any) -> bool:
    """Whether all texts are date and time in digits alone: `20260305101701`."""
    import pyarrow.compute as pc

    given = pc.filter(texts, pc.not_equal(texts, ""))
    return len(given) > 0 and bool(pc.all(pc.match_substring_regex(_plain(given), _COMPACT)).as_py())


def date_times(texts: Any) -> Stamps:
    """Read dates with times. A text without a zone counts as UTC; two digits of a year mean 20xx.

    Where day and month could be swapped, the reading that makes the log shorter wins.
    """
    import pyarrow.compute as pc

    plain = _with_colons(_plain(texts), _POINTS)
    best = np.full(len(texts), np.nan)
    swapped, first = False, ""
    for pattern in _DATE_TIMES:
        if np.isfinite(best).all():
            break
        if not pc.any(pc.match_substring_regex(plain, pattern)).as_py():
            continue
        found = _parts(plain, pattern)
        readable = np.isfinite(found["h"])
        if not readable.any():
            continue
        clock = _time_of_day(found)
        # Who writes AM and PM without points, and a stroke between the numbers, writes the month first.
        american = pc.any(pc.match_substring_regex(plain, r"/.*\d ?[ap]m\b")).as_py()
        orders: tuple[str, ...] = ("mdy", "dmy", "ymd") if american else ("dmy", "mdy", "ymd")
        if np.isfinite(found["named"][readable]).all():  # a month in letters leaves nothing to swap
            orders = ("dmy",)
        readings = [_days(found, order) * 86_400.0 + clock for order in orders]
        chosen = readings[0]
        for reading in readings[1:]:
            chosen = reading if _better(reading, chosen) else chosen
        if _better(chosen, best):
            best = chosen
            swapped = any(_as_good(each, chosen) for each in readings if each is not chosen)
            first = "month" if chosen is readings[0] and american else "day"
    return Stamps(best, first if swapped else "")


def durations(texts: Any) -> Durations:
    """Read `1:02:03.5`, `02:03`, `10.17.01`, `10:17:01:250`, `01:02:03 p. m.`, `1 day, 0:00:01`."""
    import pyarrow.compute as pc

    plain = _plain(texts, with_months=False)
    plain = pc.replace_substring_regex(plain, r"(\d[hm]) (\d)", r"\1\2")
    colons = _with_colons(plain, _POINTS_ALONE)
    if not pc.any(pc.match_substring_regex(colons, f"{_DURATION}|{_SHORT_TIME}")).as_py():
        return Durations(np.full(len(texts), np.nan))
    found = _parts(colons, _DURATION)
    short = _parts(plain, _SHORT_TIME)
    alone = np.isfinite(short["h"])
    seconds = _time_of_day(found)
    seconds[alone] = _time_of_day(short)[alone]
    seconds += np.nan_to_num(found["d"]) * 86_400.0
    given = np.isfinite(seconds)
    dropped = pc.match_substring_regex(plain, _HOURS_DROPPED).to_numpy(zero_copy_only=False)
    hours = found["h"][given]
    twelve = (
        bool(given.any())
        and bool(np.isfinite(hours).all())
        and not np.isfinite(found["p"][given]).any()
        and float(hours.min()) >= 1.0
        and float(hours.max()) == 12.0
    )
    return Durations(seconds, bool(given.any() and dropped[given].all()), twelve)


def _plain(texts: Any, *, with_months: bool = True) -> Any:
    """Return texts in lower case, blanks made one kind, months as `m03`, names of UTC taken out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    plain = pc.utf8_lower(pc.utf8_trim_whitespace(texts))
    plain = pc.replace_substring_regex(plain, r"[\x{00a0}\x{202f}\t ]+", " ")
    plain = pc.replace_substring_regex(plain, r" \([^()]*\)$", "")  # JavaScript adds the zone's name
    if pc.any(pc.match_substring_regex(plain, r"[^\x00-\x7f]")).as_py():
        folded = [_folded(text) for text in plain.to_pylist()]
        plain = pa.array(folded, pa.string())
    if with_months and pc.any(pc.match_substring_regex(plain, "[b-oq-y]")).as_py():
        for number, names in enumerate(_MONTHS, start=1):
            if not pc.any(pc.match_substring_regex(plain, names)).as_py():
                continue
            # Beside a digit: `mar` alone is also a Tuesday.
            for before, after in ((r"(\d[\-/. ]{1,2})", r"()"), (r"(\b)", r"([ \-]\d)")):
                pattern = rf"{before}(?:{names})[a-z]{{0,7}}\.?{after}"
                plain = pc.replace_substring_regex(plain, pattern, rf"\1m{number:02d}\2")
        plain = pc.replace_substring_regex(plain, r" de (m?\d)", r" \1")
        plain = pc.replace_substring_regex(plain, r"\b(?:gmt|utc)(?:[+\-]00:?00)?\b ?", "")
    return pc.utf8_trim_whitespace(plain)


def _with_colons(plain: Any, pattern: str) -> Any:
    import pyarrow.compute as pc

    return pc.replace_substring_regex(plain, pattern, r"\1\2:\3:\4\5")


def _folded(text: str | None) -> str | None:
    return None if text is None else unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _parts(plain: Any, pattern: str) -> dict[str, NDArray[np.float64]]:
    """Return the named parts of each text as numbers, NaN where a text has none.

    `p` is 0 for morning and 12 for afternoon, `z` the zone's offset [s], `b` the month where `named` is not NaN.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    struct = pc.extract_regex(plain, pattern)
    names = re.findall(r"\?P<(\w+)>", pattern)
    count = len(plain)
    parts = {name: np.full(count, np.nan) for name in ("a", "b", "c", "d", "h", "mi", "s", "f", "p", "z", "named")}
    texts = {name: pc.struct_field(struct, name) for name in names}
    for name in set(names) & {"a", "c", "d", "h", "mi", "s"}:
        parts[name] = _numbers(texts[name])
    if "b" in texts:
        parts["b"] = _numbers(pc.replace_substring(texts["b"], "m", ""))
        parts["named"][pc.fill_null(pc.starts_with(texts["b"], "m"), False).to_numpy(zero_copy_only=False)] = 1.0
    if "f" in texts:
        parts["f"] = _fractions(texts["f"], texts.get("fs"))
    if "p" in texts:
        afternoon = pc.if_else(pc.equal(texts["p"], "p"), 12.0, 0.0)
        given = pc.not_equal(pc.fill_null(texts["p"], ""), "")
        parts["p"] = pc.if_else(given, afternoon, pa.scalar(None, pa.float64())).to_numpy(zero_copy_only=False)
    if "z" in texts:
        offset = pc.extract_regex(texts["z"], r"(?P<sign>[+\-])(?P<hours>\d{2}):?(?P<minutes>\d{2})?$")
        minutes = np.nan_to_num(_numbers(pc.struct_field(offset, "minutes")))
        size = _numbers(pc.struct_field(offset, "hours")) * 3600 + minutes * 60
        minus = pc.fill_null(pc.equal(pc.struct_field(offset, "sign"), "-"), False).to_numpy(zero_copy_only=False)
        parts["z"] = np.where(minus, -size, size)
    return parts


def _numbers(texts: Any) -> NDArray[np.float64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    given = pc.if_else(pc.equal(pc.fill_null(texts, ""), ""), pa.scalar(None, pa.string()), texts)
    numbers: NDArray[np.float64] = pc.cast(given, pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    return numbers


def _fractions(texts: Any, separated: Any | None) -> NDArray[np.float64]:
    """Return the digits behind the seconds as a fraction; `:5` among `:125` counts milliseconds."""
    import pyarrow.compute as pc

    values = _numbers(texts)
    lengths = pc.fill_null(pc.utf8_length(texts), 0).to_numpy(zero_copy_only=False).astype(np.float64)
    fractions: NDArray[np.float64] = values / 10.0**lengths
    if separated is not None:
        colon = pc.fill_null(pc.starts_with(separated, ":"), False).to_numpy(zero_copy_only=False)
        widths = set(lengths[colon].tolist())
        if len(widths) > 1 and max(widths) <= 3:
            fractions[colon] = values[colon] / 1000.0
    return fractions


def _time_of_day(found: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return seconds since midnight in UTC, NaN for what no clock shows (an hour of 13 in the afternoon)."""
    hours, minutes, seconds = (np.nan_to_num(found[name]) for name in ("h", "mi", "s"))
    named = np.isfinite(found["p"])
    bad = ~np.isfinite(found["mi"]) | (seconds >= 60.0) | (np.isfinite(found["h"]) & (minutes >= 60.0))
    bad |= named & ((hours < 1.0) | (hours > 12.0))
    hours = np.where(named, hours % 12.0 + np.nan_to_num(found["p"]), hours)
    total = hours * 3600.0 + minutes * 60.0 + seconds + np.nan_to_num(found["f"]) - np.nan_to_num(found["z"])
    return np.where(bad, np.nan, total)


def _days(found: dict[str, NDArray[np.float64]], order: str) -> NDArray[np.float64]:
    """Return days since 1970 of the parts a, b, c read in this order; a year of four digits and a named month stand."""
    a, b, c = found["a"], found["b"], found["c"]
    named = np.isfinite(found["named"])
    year_first = (a > 31.0) | ((order == "ymd") & ~(c > 31.0))
    day, month, year = (a, b, c) if order != "mdy" else (b, a, c)
    day, month = np.where(named, a, day), np.where(named, b, month)
    day, month, year = np.where(year_first, c, day), np.where(year_first, b, month), np.where(year_first, a, year)
    year = np.where(year < 100.0, year + 2000.0, year)
    valid = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31) & (year >= 1900) & (year < 2262)
    whole = {name: np.where(valid, part, 1.0).astype(np.int64) for name, part in (("d", day), ("m", month))}
    years = np.where(valid, year, 1970.0).astype(np.int64)
    months = (years - 1970).astype("datetime64[Y]").astype("datetime64[M]") + (whole["m"] - 1)
    days = months.astype("datetime64[D]") + (whole["d"] - 1)
    valid &= days.astype("datetime64[M]") == months
    return np.where(valid, days.astype(np.int64).astype(np.float64), np.nan)


def _better(new: NDArray[np.float64], old: NDArray[np.float64]) -> bool:
    """Whether more texts can be read, or as many over a shorter time."""
    read_new, read_old = int(np.isfinite(new).sum()), int(np.isfinite(old).sum())
    if read_new != read_old or not read_new:
        return read_new > read_old
    return _span(new) < _span(old)


def _as_good(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    same = np.isfinite(one).sum() == np.isfinite(other).sum() and bool(np.isfinite(one).any())
    return bool(same) and _span(one) == _span(other) and bool(np.nanmin(one) != np.nanmin(other))


def _span(seconds: NDArray[np.float64]) -> float:
    return float(np.nanmax(seconds) - np.nanmin(seconds))
