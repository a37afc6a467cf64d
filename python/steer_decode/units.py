"""Numbers and foreign text in a form that people read."""

from __future__ import annotations

from .util.text import printable as printable


def count(number: int, noun: str) -> str:
    """``1 token``, ``2 tokens``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def si(value: float) -> str:
    """Three significant digits and a metric prefix, ready for a unit: ``12.3 M``."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # From 999.5 on, three digits would round up to 1000 of the smaller prefix.
        if abs(value) >= 0.9995 * factor:
            return f"{value / factor:#.3g} {prefix}".replace(". ", " ")
    return f"{value:.3g} "
