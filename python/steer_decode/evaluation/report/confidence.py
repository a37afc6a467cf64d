"""Confidence of steps beside whether they are right.

Scores of right and wrong steps, and how often a step of a given confidence is right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...core.transcript import WRITERS, Writer
from ..rows import ResultRow, StepRecord
from .bootstrap import Bootstrap, auroc
from .data import Results
from .series import Series

_BINS = 10
_FEWEST = 10


@dataclass(frozen=True)
class Judged:
    """How steps were judged, by domain.

    Some domains have labels for steps; others are judged by the answer.
    """

    by_label: Sequence[str]
    by_answer: Sequence[str]

    def sentences(self) -> list[str]:
        found = []
        if self.by_label:
            found.append(
                f"In {', '.join(self.by_label)} by the step itself, compared with the reference; "
                "what follows a wrong step is not judged."
            )
        if self.by_answer:
            found.append(
                f"In {', '.join(self.by_answer)} by the answer: every kept step of a right answer "
                "counts as right, every one of a wrong answer as wrong."
            )
        return found


@dataclass(frozen=True)
class Scores:
    """Scores under one signal, by one writer.

    And how well they tell right from wrong.
    """

    writer: Writer
    right: Sequence[float]
    wrong: Sequence[float]
    auroc: float


@dataclass(frozen=True)
class Reliability:
    """Share of right steps by confidence, for either writer."""

    router: str
    measure: str
    probability: bool
    series: Mapping[Writer, Series]


def judged(row: ResultRow) -> Iterator[tuple[StepRecord, bool]]:
    """Steps that can be judged, each with its verdict."""
    if any(step.right is not None for step in row.trace):
        yield from ((step, step.right) for step in row.trace if step.right is not None)
    else:
        yield from ((step, row.correct) for step in row.kept)


def how_judged(results: Results) -> Judged:
    labelled = {
        row.domain
        for rows in results.rows.values()
        for row in rows
        if any(step.right is not None for step in row.trace)
    }
    return Judged(
        [d for d in results.domains if d in labelled],
        [d for d in results.domains if d not in labelled],
    )


def signal_of(results: Results, router: str) -> tuple[str, bool]:
    """A router's signal by name, and its direction.

    The direction is whether higher is surer.
    """
    known = results.settings.get("signals", {}).get(router, {})
    return str(known.get("name", "score")), bool(known.get("higher_is_surer", True))


def scores(results: Results) -> dict[str, list[Scores]]:
    """Scores of all steps, by the signal that was read."""
    found: dict[str, dict[Writer, tuple[list[float], list[float]]]] = {}
    surer: dict[str, bool] = {}
    for router, rows in results.rows.items():
        name, surer_up = signal_of(results, router)
        surer[name] = surer_up
        groups = found.setdefault(name, {writer: ([], []) for writer in WRITERS})
        for row in rows:
            for step, right in judged(row):
                if step.score is not None:
                    groups[step.writer][not right].append(step.score)
    return {
        name: [
            Scores(w, right, wrong, auroc(right, wrong) if surer[name] else auroc(wrong, right))
            for w, (right, wrong) in groups.items()
            if right or wrong
        ]
        for name, groups in found.items()
    }


def calibration(results: Results, boot: Bootstrap, router: str) -> Reliability | None:
    """How often steps are right, by the router's own measure.

    None where the router read nothing. That is the posterior of the confident component where there
    is one, else the look before the step (at the small model's next token, so for its own steps
    only), else the score.
    """
    rows = results.rows[router]
    steps = [step for row in rows for step in row.trace]
    name, _ = signal_of(results, router)
    if any(step.posterior is not None for step in steps):
        field, measure = "posterior", "posterior of a confident step"
    elif any(step.before is not None for step in steps):
        field, measure = "before", f"{name} of the first token, read before the step"
    else:
        field, measure = "score", f"mean {name} of the step"
    points: dict[Writer, list[tuple[int, float, bool]]] = defaultdict(list)
    for row in rows:
        for step, right in judged(row):
            value = getattr(step, field)
            if value is not None and (field != "before" or step.writer == "small"):
                place = results.place[row.domain, row.problem]
                points[step.writer].append((place, value, right))
    probability = field == "posterior" or name == "max-prob"
    series = {
        writer: _binned(points[writer], boot, len(results.names), probability)
        for writer in WRITERS
        if len(points[writer]) >= _FEWEST
    }
    return Reliability(router, measure, probability, series) if series else None


def _binned(
    points: Sequence[tuple[int, float, bool]], boot: Bootstrap, problems: int, even: bool
) -> Series:
    """Bins of equal width in [0, 1] for probabilities, else of equal content."""
    place = np.array([p for p, _, _ in points])
    value = np.array([v for _, v, _ in points])
    right = np.array([r for _, _, r in points], dtype=float)
    edges = np.linspace(0, 1, _BINS + 1)
    if not even:
        edges = np.unique(np.quantile(value, edges))
    inner = edges[1:-1]
    bins = np.searchsorted(inner, value, side="right")
    n = np.bincount(bins, minlength=len(inner) + 1)
    above, below = np.zeros((2, problems, len(n)))
    np.add.at(above, (place, bins), right)
    np.add.at(below, (place, bins), 1)
    x = np.bincount(bins, value, minlength=len(n)) / np.maximum(n, 1)
    some = np.flatnonzero(n)
    y = boot.shares(above[:, some], below[:, some])
    return Series(x[some].tolist(), y, n[some].tolist())
