"""The curves of a report, by place.

Use of the large model by step and by difficulty, and drafts by place and by length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .bootstrap import Bootstrap, Interval, intervals
from .data import Results

_LONGEST = 30
_FEWEST = 5
LONGEST_DRAFT = 64  # places that are drawn; a longer draft counts as one of so many tokens


@dataclass(frozen=True)
class Series:
    """One curve: x, and y with intervals.

    Also how many answers each point rests on.
    """

    x: Sequence[float]
    y: Sequence[Interval]
    n: Sequence[int]


def by_position(results: Results, boot: Bootstrap, router: str) -> Series:
    """Share of kept tokens by the large model, by position.

    The position is that of their step in the answer.
    """
    length = min(_LONGEST, max(1, *(row.steps for row in results.rows[router])))
    large = np.zeros((len(results.names), length))
    tokens = np.zeros_like(large)
    n = np.zeros(length, dtype=int)
    for row in results.rows[router]:
        at = results.place[row.domain, row.problem]
        for i, step in enumerate(row.kept[:length]):
            n[i] += 1
            tokens[at, i] += step.tokens
            large[at, i] += step.large_tokens
    some = np.flatnonzero(n >= min(_FEWEST, n.max(initial=0)))
    y = intervals(boot.ratio(large[:, some], tokens[:, some]))
    return Series((some + 1).tolist(), y, n[some].tolist())


def by_difficulty(results: Results, boot: Bootstrap, router: str, what: str) -> Series:
    """One figure by difficulty.

    ``large`` is a share of tokens, ``correct`` a share of answers.
    """
    levels = difficulties(results)
    above = np.zeros((len(results.names), len(levels)))
    below = np.zeros_like(above)
    n = [0] * len(levels)
    for row in results.rows[router]:
        if row.difficulty is None:
            continue
        at, level = results.place[row.domain, row.problem], levels.index(row.difficulty)
        above[at, level] += row.large_tokens if what == "large" else row.correct
        below[at, level] += row.tokens if what == "large" else 1
        n[level] += 1
    if what == "correct":
        return Series(levels, boot.shares(above, below), n)
    return Series(levels, intervals(boot.ratio(above, below)), n)


def difficulties(results: Results) -> list[int]:
    """Those that the problems have, in order."""
    return sorted(
        {r.difficulty for rows in results.rows.values() for r in rows if r.difficulty is not None}
    )


def by_place(results: Results, boot: Bootstrap, router: str) -> Series:
    """How often drafted tokens stay, by place.

    A token counts where those before it in the draft stayed; ``n`` are such tokens. Places that
    fewer drafts reach than positions want answers are left out.
    """
    longest = min(LONGEST_DRAFT, max(n for row in results.rows[router] for n, _ in row.drafts))
    examined, stayed = np.zeros((2, len(results.names), longest))
    for row in results.rows[router]:
        at = results.place[row.domain, row.problem]
        for drafted, kept in row.drafts:
            examined[at, : min(drafted, kept + 1)] += 1
            stayed[at, :kept] += 1
    n = examined.sum(0).astype(int)
    some = np.flatnonzero(n >= min(_FEWEST, n.max(initial=0)))
    y = intervals(boot.ratio(stayed[:, some], examined[:, some]))
    return Series((some + 1).tolist(), y, n[some].tolist())


def lengths(results: Results, boot: Bootstrap, router: str) -> Series:
    """Share of drafts by the tokens that stayed.

    ``n`` are the drafts of which so many did.
    """
    most = max(kept for row in results.rows[router] for _, kept in row.drafts)
    longest = min(LONGEST_DRAFT, most)
    counts = np.zeros((len(results.names), longest + 1))
    for row in results.rows[router]:
        at = results.place[row.domain, row.problem]
        for _, kept in row.drafts:
            counts[at, min(kept, longest)] += 1
    y = intervals(boot.ratio(counts, counts.sum(1, keepdims=True)))
    return Series(list(range(longest + 1)), y, counts.sum(0).astype(int).tolist())
