"""Replayed cascades at many thresholds, with intervals.

The random mix stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.signals import SIGNALS
from ...core.transcript import WRITERS
from ...policies.query_cascade import OVER
from ...util.files import write_whole
from ...util.text import dump
from ..report.bootstrap import RESAMPLES, Bootstrap, Interval, difference
from .cascades import COSTS, Array, Outcome, Recorded, cascade, threshold_for

SHARES = tuple(i / 20 for i in range(21))
SHOWN = (0.25, 0.5, 0.75)
EXACT_ALONE = ("flops_processed", "bytes_read")


@dataclass(frozen=True)
class Point:
    """One threshold of one cascade.

    Attributes:
        router: its specification, for a run of its own.
        sent: share of the questions that the large model answers.
        accuracy: share of right answers.
        costs: means per answer, by name.
        large_token_share: of the tokens that stay.
        discarded: tokens per answer that were taken back.
        above_mix: accuracy minus that of the random mix of both models that costs as much, by name
            of the cost; outside their two costs the nearer model alone stands in for the mix.
    """

    router: str
    sent: float
    accuracy: Interval
    costs: Mapping[str, float]
    large_token_share: float
    discarded: float
    above_mix: Mapping[str, Interval]


@dataclass(frozen=True)
class Curve:
    """All thresholds of one signal and one way to sum.

    What is summed up are an answer's steps.
    """

    signal: str
    over: str
    points: Sequence[Point]

    def at(self, share: float) -> Point:
        """The point that sends nearest to ``share``."""
        return min(self.points, key=lambda point: abs(point.sent - share))


@dataclass(frozen=True)
class Sweep:
    """Every curve, and either model alone: (accuracy, costs per answer)."""

    curves: Sequence[Curve]
    alone: Mapping[str, tuple[Interval, Mapping[str, float]]]
    problems: int
    answers: int
    left_out: int
    cohort: int

    @property
    def exact(self) -> list[str]:
        """Costs that a run would have to the last digit.

        The run is one of the same cascade.
        """
        return ["flops_paper", *(EXACT_ALONE if self.cohort == 1 else ())]


def sweep(
    recorded: Recorded, shares: Sequence[float] = SHARES, resamples: int = RESAMPLES
) -> Sweep:
    """Replay all signals and ways to sum at many thresholds.

    The signals are those that are built in, the thresholds those that send ``shares``. Thresholds
    are fixed before problems are resampled for the intervals; the seeds of a problem stay together.
    """
    means = _Means(recorded, resamples)
    curves = []
    for over in OVER:
        for signal in SIGNALS:
            cuts = [threshold_for(recorded, signal, over, share) for share in shares]
            cuts = list(dict.fromkeys(cuts))
            points = [
                means.point(
                    f"corea:signal={signal}:over={over}:threshold={cut:.10g}",
                    cascade(recorded, signal, over, cut),
                )
                for cut in cuts
            ]
            curves.append(Curve(signal, over, points))
    return Sweep(
        curves=curves,
        alone={w: (means.share(recorded.right[w]), means.alone(w)) for w in WRITERS},
        problems=len(set(recorded.names)),
        answers=len(recorded.names),
        left_out=recorded.left_out,
        cohort=int(recorded.settings.get("cohort", 1)),
    )


class _Means:
    """Means per answer over resampled problems, [1 + resamples], the problems themselves first."""

    def __init__(self, recorded: Recorded, resamples: int) -> None:
        self._recorded = recorded
        problems = list(dict.fromkeys(recorded.names))
        place = {name: i for i, name in enumerate(problems)}
        self._at = np.array([place[name] for name in recorded.names])
        self._count = np.bincount(self._at).astype(np.float64)
        self._boot = Bootstrap([domain for domain, _ in problems], resamples)
        self._ones = np.ones(len(problems))
        self.right = {w: self.of(recorded.right[w]) for w in WRITERS}
        self._costs = {w: {c: self.of(recorded.costs[w][c]) for c in COSTS} for w in WRITERS}

    def of(self, values: Array) -> Array:
        """The mean of ``values`` [A].

        The seeds of a problem are averaged first.
        """
        by_problem = np.bincount(self._at, values) / self._count
        return self._boot.ratio(by_problem, self._ones)

    def share(self, right: Array) -> Interval:
        """The share of right answers in ``right`` [A], likewise."""
        by_problem = (np.bincount(self._at, right) / self._count)[:, None]
        return self._boot.shares(by_problem, self._ones[:, None])[0]

    def _above(self, samples: Array) -> Interval:
        return difference(samples, len(self._ones))

    def alone(self, writer: str) -> dict[str, float]:
        return {c: float(self._costs[writer][c][0]) for c in COSTS}  # type: ignore[index]

    def point(self, router: str, outcome: Outcome) -> Point:
        accuracy = self.of(outcome.right)
        costs = {c: self.of(outcome.costs[c]) for c in COSTS}
        return Point(
            router=router,
            sent=float(outcome.sent.mean()),
            accuracy=self.share(outcome.right),
            costs={c: float(costs[c][0]) for c in COSTS},
            large_token_share=float(outcome.large_tokens.sum() / max(1.0, outcome.tokens.sum())),
            discarded=float(outcome.discarded.mean()),
            above_mix={c: self._above(accuracy - self._mix(c, costs[c])) for c in COSTS},
        )

    def _mix(self, cost: str, at: Array) -> Array:
        """Accuracy of the random mix of whole questions that costs ``at``, in each resample."""
        low, high = (self._costs[w][cost] for w in WRITERS)
        worse, better = (self.right[w] for w in WRITERS)
        part = (at - low) / np.where(high > low, high - low, np.nan)
        return worse + np.clip(part, 0, 1) * (better - worse)


def markdown(found: Sweep, note: str) -> str:
    """A table with a line for each signal and summary."""
    lines = [
        f"### {found.problems} problems, {found.answers} answers of either model, no new run",
        "",
        "| signal | over | "
        + " | ".join(f"accuracy %, {s:.0%} sent | above the mix" for s in SHOWN)
        + " |",
        "|---|---|" + "---:|" * (2 * len(SHOWN)),
    ]
    for curve in found.curves:
        cells = [curve.signal, curve.over]
        for share in SHOWN:
            point = curve.at(share)
            value, low, high = (100 * x for x in point.above_mix["flops_paper"])
            cells += [
                f"{100 * point.accuracy.value:.1f}",
                f"{value:+.1f} ({low:+.1f} to {high:+.1f})",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    alone = [f"{w} alone {100 * found.alone[w][0].value:.1f} %" for w in WRITERS]
    missing = (
        f" {found.left_out} answers have no partner and are left out." if found.left_out else ""
    )
    bounds = (
        "FLOPs and bytes are exact, seconds are sums."
        if found.cohort == 1
        else f"Recorded in cohorts of {found.cohort}: FLOPs as papers count are exact, processed "
        "ones to within one position of the head a prompt; bytes and seconds are those of the "
        "passes as they were shared."
    )
    lines += [
        "",
        f"{alone[0]}, {alone[1]}.{missing} Above the mix: points of accuracy beside the random "
        "mix of whole questions at equal FLOPs as papers count, with 95 % intervals. A threshold "
        "chosen here is chosen on these problems: choose it on others. " + bounds,
        "",
        note,
        "",
    ]
    return "\n".join(lines)


def to_dict(found: Sweep) -> dict[str, Any]:
    """The sweep as plain data.

    Intervals are [value, low, high], None where there is none.
    """
    curves = [
        {
            "signal": curve.signal,
            "over": curve.over,
            "points": [
                {
                    "router": point.router,
                    "sent": point.sent,
                    "accuracy": _plain(point.accuracy),
                    **point.costs,
                    "large_token_share": point.large_token_share,
                    "discarded_tokens": point.discarded,
                    "above_mix": {c: _plain(x) for c, x in point.above_mix.items()},
                }
                for point in curve.points
            ],
        }
        for curve in found.curves
    ]
    alone = {w: {"accuracy": _plain(a), **costs} for w, (a, costs) in found.alone.items()}
    return {
        "problems": found.problems,
        "answers": found.answers,
        "left_out": found.left_out,
        "cohort": found.cohort,
        "exact_costs": found.exact,
        "alone": alone,
        "curves": curves,
    }


def _plain(found: Interval) -> list[float | None]:
    return [float(x) if np.isfinite(x) else None for x in found]


def write(folder: Path, found: Sweep, note: str) -> None:
    """Write ``replay.json`` and ``replay.md``."""
    write_whole(folder / "replay.json", dump(to_dict(found), indent=1) + "\n")
    write_whole(folder / "replay.md", markdown(found, note))
