"""The figures of a report.

Routers with intervals, and chance at equal cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np

from .area import Areas, measure_areas
from .bootstrap import Array, Bootstrap, Interval, difference, interval, mean_share
from .data import Results
from .drafts import DraftFigures, measure_drafts


class CostAxis(NamedTuple):
    """One way to count, with the unit of its figures."""

    key: str
    name: str
    unit: str


SHARE = CostAxis("share", "tokens by the large model", "%")
COSTS = (
    SHARE,
    CostAxis("flops_paper", "FLOPs as papers count", "FLOP"),
    CostAxis("flops_processed", "FLOPs processed", "FLOP"),
    CostAxis("bytes_read", "bytes read", "B"),
)
SECONDS = CostAxis("seconds", "seconds", "s")
LINE_POINTS = 25
MOST_PAIRED = 6


@dataclass(frozen=True)
class RouterFigures:
    """One router on some problems.

    Attributes:
        accuracy: share of right answers.
        costs: by key; the share of tokens, else the mean per answer, as a ratio to the large model
            alone where that was run.
        absolute: means per answer in the cost's own unit.
        above_chance: accuracy minus that of the random mix that costs as much, by key of the cost;
            empty without both models alone.
        hand_overs, discarded: means per answer, of discarded tokens.
    """

    router: str
    kind: str
    accuracy: Interval
    costs: Mapping[str, Interval]
    absolute: Mapping[str, float]
    above_chance: Mapping[str, Interval]
    hand_overs: float
    discarded: float


@dataclass(frozen=True)
class PairFigures:
    """One router beside another, paired over problems.

    ``accuracy`` is the difference, ``costs`` are ratios, both first to second.
    """

    first: str
    second: str
    accuracy: Interval
    costs: Mapping[str, Interval]


@dataclass(frozen=True)
class Line:
    """The random mix: cost against accuracy, as a line.

    Each question goes whole to one of the models.
    """

    costs: Sequence[float]
    accuracy: Sequence[Interval]


@dataclass(frozen=True)
class Scope:
    """All figures of one domain's problems, or of all problems."""

    name: str
    problems: int
    routers: Sequence[RouterFigures]
    pairs: Sequence[PairFigures]
    lines: Mapping[str, Line]
    relative: bool
    costs: Sequence[CostAxis]
    areas: Areas | None = None
    drafts: Mapping[str, DraftFigures] = field(default_factory=dict)


def measure(results: Results, boot: Bootstrap, domain: str | None, seconds: bool) -> Scope:
    """Measure the problems of ``domain``.

    None stands for all problems.
    """
    mask = np.array([domain in (None, d) for d, _ in results.names], dtype=float)[:, None]
    tables = {key: table * mask for key, table in results.tables.items()}
    costs = (*COSTS, SECONDS) if seconds else COSTS
    ones = np.broadcast_to(mask, tables["tokens"].shape)
    accuracy = boot.ratio(tables["correct"], ones)
    samples = {c.key: boot.ratio(tables[c.key], ones) for c in costs if c is not SHARE}
    absolute = {key: sample[0] for key, sample in samples.items()}
    samples[SHARE.key] = boot.ratio(tables["large_tokens"], tables["tokens"])
    small, large = (results.alone(writer) for writer in ("small", "large"))
    if large is not None:
        column = results.routers.index(large)
        for key in absolute:
            samples[key] = _quotient(samples[key], samples[key][:, column : column + 1])
    chance: dict[str, Array] = {}
    lines: dict[str, Line] = {}
    if small is not None and large is not None:
        lengths = boot.ratio(tables["tokens"], ones)

        def ends(sample: Array) -> tuple[Array, Array]:
            places = [results.routers.index(router) for router in (small, large)]
            return sample[:, places[:1]], sample[:, places[1:]]

        for key, cost in samples.items():
            tokens = ends(lengths) if key == SHARE.key else None
            mix = _Mix(ends(cost), ends(accuracy), int(mask.sum()), tokens)
            chance[key] = mix.at(cost)
            lines[key] = mix.line()
    count = int(mask.sum())
    right = boot.shares(tables["correct"], np.array(ones))
    figures = [
        RouterFigures(
            router=router,
            kind=results.kind(router),
            accuracy=right[i],
            costs={c.key: interval(samples[c.key][:, i]) for c in costs},
            absolute={key: float(value[i]) for key, value in absolute.items()},
            above_chance={
                # Either model alone is an end of the mix: no difference, whatever the problems.
                k: interval(accuracy[:, i] - v[:, i])
                if router in (small, large)
                else difference(accuracy[:, i] - v[:, i], count)
                for k, v in chance.items()
            },
            hand_overs=float(tables["hand_overs"][:, i].sum() / mask.sum()),
            discarded=float(tables["discarded_tokens"][:, i].sum() / mask.sum()),
        )
        for i, router in enumerate(results.routers)
    ]
    pairs = [
        PairFigures(
            first=results.routers[i],
            second=results.routers[j],
            accuracy=difference(accuracy[:, i] - accuracy[:, j], count),
            costs={key: interval(_quotient(s[:, i], s[:, j])) for key, s in samples.items()},
        )
        for i, j in combinations(map(results.routers.index, results.routed()[:MOST_PAIRED]), 2)
    ]
    # A mix of questions is no straight line in the share of tokens, and that is no cost.
    priced = {key: sample for key, sample in samples.items() if key != SHARE.key}
    areas = measure_areas(results, priced, accuracy, count)
    drafts = measure_drafts(results, boot, domain)
    relative = large is not None
    return Scope(domain or "all", count, figures, pairs, lines, relative, costs, areas, drafts)


def _quotient(above: Array, below: Array) -> Array:
    above, below = np.broadcast_arrays(above, below)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


@dataclass(frozen=True)
class _Mix:
    """The random mix under one way to count: question by question, large with probability p.

    Attributes:
        ends: what small and large cost alone, [1 + resamples, 1] each.
        accuracy: theirs, likewise.
        problems: how many.
        tokens: mean length of their answers, likewise, where the cost is a share of tokens.
    """

    ends: tuple[Array, Array]
    accuracy: tuple[Array, Array]
    problems: int
    tokens: tuple[Array, Array] | None = None

    def at(self, cost: Array) -> Array:
        """Accuracy at ``cost`` [1 + resamples, ...], within each resample.

        Below the cost of the small model alone and above that of the large one it is theirs.
        """
        low, high = self.ends
        if self.tokens is None:
            p = (cost - low) / np.where(high > low, high - low, np.nan)
        else:
            # A share s of tokens needs s = p L / (p L + (1 - p) S), for lengths S and L.
            short, long = self.tokens
            p = cost * short / (long - cost * (long - short))
        worse, better = self.accuracy
        return worse + np.clip(p, 0, 1) * (better - worse)

    def line(self) -> Line:
        low, high = (float(end[0, 0]) for end in self.ends)
        at = np.linspace(low, high, LINE_POINTS)
        mixed = self.at(np.broadcast_to(at, (len(self.ends[0]), LINE_POINTS)))
        return Line(at.tolist(), [mean_share(column, self.problems) for column in mixed.T])
