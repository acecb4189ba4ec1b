"""Text for numbers, as people read them in the report and on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable

NO_VALUE = "-"


def number(value: float, digits: int) -> str:
    """Return the value with this many decimals, a dash for NaN."""
    return NO_VALUE if math.isnan(value) else f"{value:.{digits}f}"


def three_decimals(value: float) -> str:
    """Return the text of a score, which has three decimals."""
    return f"{value:.3f}"


def signed(value: float, digits: int = 1) -> str:
    """Return the value with its sign and this many decimals, a dash for NaN.

    What rounds to zero has no sign.
    """
    if math.isnan(value):
        return NO_VALUE
    text = f"{value:+.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def spread(mean: float, sd: float) -> str:
    """Return a mean difference of scores ± its standard deviation, without the ± if sd is NaN."""
    return signed(mean, 3) + ("" if math.isnan(sd) else f" ± {sd:.3f}")


def p_value(p: float) -> str:
    """Return a p-value with three decimals, "< 0.001" for smaller ones, a dash for NaN."""
    if math.isnan(p):
        return NO_VALUE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def amount(value: float) -> str:
    """Return seconds or MiB with one decimal below 100 and with none above."""
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def listed(values: Iterable[int]) -> str:
    """Return the different ones among whole numbers in ascending order: "1, 2, 3"."""
    return ", ".join(str(value) for value in sorted(set(values)))


def capital(text: str) -> str:
    """Return the text with a capital first letter and the rest unchanged."""
    return text[:1].upper() + text[1:]


def count(n: int, noun: str) -> str:
    """Return the number with its noun in the singular or plural: "1 job", "2 jobs"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def duration(seconds: float) -> str:
    """Return seconds in the unit that suits their size: "12 s", "4 min", "2 h 10 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
