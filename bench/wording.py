"""Numbers as people read them, in the report and on the terminal."""

from __future__ import annotations

import math

NO_VALUE = "-"


def number(value: float, digits: int) -> str:
    """With so many decimals; a dash if there is none."""
    return NO_VALUE if math.isnan(value) else f"{value:.{digits}f}"


def three_decimals(value: float) -> str:
    """A score."""
    return f"{value:.3f}"


def signed(value: float, digits: int = 1) -> str:
    """With its sign, none for zero; a real minus."""
    if math.isnan(value):
        return NO_VALUE
    text = f"{value:+.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def spread(mean: float, sd: float) -> str:
    """A difference of scores and its standard deviation, left out where it is missing."""
    return signed(mean, 3) + ("" if math.isnan(sd) else f" ± {sd:.3f}")


def p_value(p: float) -> str:
    """Three decimals, and no p of 0."""
    return NO_VALUE if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def amount(value: float) -> str:
    """Seconds or MiB: one decimal below 100, whole above."""
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def listed(values) -> str:
    """Different whole numbers in order: "1, 2, 3"."""
    return ", ".join(str(value) for value in sorted(set(values)))


def capital(text: str) -> str:
    """With a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def count(n: int, noun: str) -> str:
    """ "1 job", "2 jobs"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def duration(seconds: float) -> str:
    """In the unit that suits: 12 s, 4 min, 2 h 10 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
