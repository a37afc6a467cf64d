"""What became of drafts.

How many tokens a pass of the large model wrote with them, and how many of theirs stayed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .bootstrap import Bootstrap, Interval, interval
from .data import Results


class DraftFigures(NamedTuple):
    """One router that drafts, on some problems.

    Attributes:
        a_pass: kept tokens that a pass of the large model wrote; NaN where an older folder does not
            tell how many passes there were.
        stayed: share of the drafted tokens that the large model read and let stay.
        drafts: how many drafts it verified.
    """

    a_pass: Interval
    stayed: Interval
    drafts: int


def drafting(results: Results) -> list[str]:
    """Routers of whose drafts any was verified."""
    return [router for router, rows in results.rows.items() if any(row.drafts for row in rows)]


def measure_drafts(
    results: Results, boot: Bootstrap, domain: str | None
) -> dict[str, DraftFigures]:
    """Measure each router that drafts.

    On the problems of ``domain``; None stands for all problems.
    """
    found = {}
    for router in drafting(results):
        tokens, passes, drafted, stayed = np.zeros((4, len(results.names)))
        rows = [row for row in results.rows[router] if domain in (None, row.domain)]
        for row in rows:
            at = results.place[row.domain, row.problem]
            tokens[at] += row.large_tokens
            passes[at] += row.large_passes or 0
            drafted[at] += row.drafted_tokens
            stayed[at] += row.stayed_tokens
        known = all(row.large_passes is not None for row in rows)
        found[router] = DraftFigures(
            interval(boot.ratio(tokens, passes if known else np.zeros_like(passes))),
            interval(boot.ratio(stayed, drafted)),
            sum(len(row.drafts) for row in rows),
        )
    return found
