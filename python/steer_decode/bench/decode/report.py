"""Rows of `steer bench decode` as lines of text."""

from __future__ import annotations

from .plan import MEASURES, DecodeRow
from .turns import BUSY

_COLUMNS = "{:1} {:15} {:13} {:>7} {:>7} {:>8}  {:13} {}"


def head() -> str:
    names = ("", "measure", "model", "threads", "context", "ratio", "limit", "what it is")
    return _COLUMNS.format(*names)


def line(row: DecodeRow) -> str:
    """One row with its tick or cross.

    A warning stands where the machine was too busy to tell.
    """
    rule = MEASURES[row.measure]
    about = rule.about
    if row.spread > BUSY:
        about += f" (busy machine: turns differ by {row.spread:.1f}x)"
    mark = {True: "✓", False: "✗", None: ""}[row.ok]
    return _COLUMNS.format(
        mark,
        row.measure,
        row.model,
        row.threads,
        row.context,
        f"{row.value:.3f}" if row.value < 10 else f"{row.value:.1f}",
        rule.condition(row.context),
        about,
    ).rstrip()
