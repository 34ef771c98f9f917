"""Durations, sizes and folded lines as text: the one way in which agent and server write them.

Here, since both sides show the same figures: a car's `status` and the server's tables. What a schedule's duration looks
like in a file (`1h30m`, which is read back) is the schedule's own. Imports the standard library only.
"""


def span(seconds: float) -> str:
    """Return a duration in its one or two largest units, with spaces: `45 s`, `12 min`, `3 h 20 min`, `5 d`."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 90 * 60:
        return f"{round(whole / 60)} min"
    hours, minutes = divmod(round(whole / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{round(hours / 24)} d"


def size_text(value: float | None) -> str:
    """Return bytes in the largest decimal unit that keeps a digit before the point; a dash for None."""
    if value is None:
        return "-"
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(amount) < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def fold(text: str, width: int, first: str, further: str) -> str:
    """Break ``text`` between words into lines of ``width``; a path stays whole, so that it can be copied."""
    import textwrap  # an idle agent folds nothing

    return textwrap.fill(
        text,
        width,
        initial_indent=first,
        subsequent_indent=further,
        break_on_hyphens=False,
        break_long_words=False,
    )
