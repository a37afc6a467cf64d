"""Numbers and foreign text in a form that people read."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .text import printable as printable

# From 999.5 on, three digits would round up to 1000 of the smaller prefix.
_PREFIXES = (
    (1e24, "Y"),
    (1e21, "Z"),
    (1e18, "E"),
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
)


def count(number: int, noun: str) -> str:
    """``1 token``, ``2 tokens``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def significant(value: float, digits: int = 3) -> str:
    """``digits`` significant digits, never as a power of ten.

    ``0.0123``, ``14,313``.
    """
    text = f"{value:.{digits}g}"
    if "e" not in text:
        return text
    if abs(value) >= 1:
        return f"{value:,.0f}"
    return f"{value:.{digits - 1 - math.floor(math.log10(abs(value)))}f}"


def duration(seconds: float) -> str:
    """``0.0123 s``, ``14,313 s``."""
    return f"{significant(seconds)} s"


def prefix(values: Iterable[float]) -> tuple[float, str]:
    """Factor and letter of a column's metric prefix.

    It fits the largest of ``values``.
    """
    largest = max((abs(value) for value in values), default=0.0)
    return next((p for p in _PREFIXES if largest >= 0.9995 * p[0]), (1.0, ""))


def si(value: float) -> str:
    """Three significant digits and a metric prefix.

    Ready for a unit: ``12.3 M``.
    """
    factor, letter = prefix([value])
    if letter:
        return f"{value / factor:#.3g} {letter}".replace(". ", " ")
    return f"{significant(value)} "
