"""Routing beside the large model alone on the same machines.

Both are given the same load, from little to the most that either carries. Routing pays where its
answers take less time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.transcript import Writer
from ..util.text import significant
from .arrivals import Load
from .fleet import FleetPlan, PoolPlan
from .run import Simulated, simulate
from .script import Script
from .tariff import Tariff

PARTS = (0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 0.98)
"""Loads that are compared, as parts of the most that either carries."""
_HALVINGS = 4
LEAST, MOST = 1000, 200_000  # answers of a run
_SPANS = 10  # times that an answer takes alone, which a run lasts at least
RUNS = 2 * (len(PARTS) + _HALVINGS + 1)
"""Simulated runs of a comparison, at about the most."""


@dataclass(frozen=True)
class Contender:
    """Answers and the fleet that gives them."""

    scripts: Sequence[Script]
    plan: FleetPlan


@dataclass(frozen=True)
class LoadPoint:
    """Both at one load, answers a second."""

    rate: float
    routed: Simulated
    alone: Simulated

    @property
    def pays(self) -> bool:
        """Whether routed answers take less time."""
        return _slowness(self.routed) < _slowness(self.alone)


@dataclass(frozen=True)
class Comparison:
    """Routing and the large model alone under the same loads.

    Attributes:
        carried: most answers a second, "routed" and "alone".
        points: loads that rise.
        turns: loads at which routing begins or ceases to pay.
        parts: equal fleets, one of which was reckoned.
    """

    carried: dict[str, float]
    points: Sequence[LoadPoint]
    turns: Sequence[float]
    parts: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        points = [
            {"rate": p.rate, "routed": p.routed.to_dict(), "alone": p.alone.to_dict()}
            for p in self.points
        ]
        return {
            "carried": self.carried,
            "turns": list(self.turns),
            "verdict": self.sentence(),
            "parts": self.parts,
            "points": points,
        }

    def sentence(self) -> str:
        """From where to where routing pays."""
        most = {name: significant(rate) for name, rate in self.carried.items()}
        told = f"they carry at most {most['routed']} routed answers a second, {most['alone']} of "
        told += "the large model alone"
        if not self.turns:
            if self.points[0].pays:
                return f"routing is faster at every load that these machines carry: {told}"
            return f"routing is slower at every load that these machines carry: {told}"
        ends = [significant(turn) for turn in self.turns]
        if self.points[0].pays:
            parts = [f"up to {ends[0]}", *_between(ends[1:])]
        else:
            parts = list(_between(ends))
        return f"routing is faster {' and '.join(parts)} answers a second: {told}"


def _between(ends: Sequence[str]) -> Iterator[str]:
    for i in range(0, len(ends), 2):
        yield f"from {ends[i]} to {ends[i + 1]}" if i + 1 < len(ends) else f"from {ends[i]} on"


def large_alone(routed: Contender, recorded: Sequence[Script]) -> Contender:
    """The large model alone, on the machines of ``routed``.

    Args:
        routed: answers and fleet.
        recorded: the large model's own answers.
    """
    plan = routed.plan
    large = plan.pools["large"]
    pools: dict[Writer, PoolPlan] = {
        "small": replace(plan.pools["small"], replicas=0),
        "large": replace(large, replicas=plan.machines // large.machines),
    }
    return Contender(recorded, replace(plan, pools=pools, one_device=False))


def common(plan: FleetPlan) -> int:
    """Into how many equal fleets a fleet divides."""
    return math.gcd(*(pool.replicas for pool in plan.pools.values()))


def part_of(contender: Contender, parts: int) -> Contender:
    """One of ``parts`` equal fleets."""
    pools = {
        w: replace(pool, replicas=pool.replicas // parts)
        for w, pool in contender.plan.pools.items()
    }
    return replace(contender, plan=replace(contender.plan, pools=pools))


def enough(contender: Contender, load: Load) -> int:
    """Answers of a run that is long beside an answer."""
    inside = load.value
    if load.open:  # as many are in the making as come while one is written
        few = min(50, len(contender.scripts))
        one = simulate(contender.scripts, contender.plan, Load("closed", 1), few, warm=0)
        inside *= one.mean
    return min(MOST, max(LEAST, math.ceil(_SPANS * inside)))


def most_carried(contender: Contender) -> float:
    """Answers a second where every engine is full.

    A queue that grows has work for every engine, wherever conversations are drawn to; as many
    conversations as there is room for have it only if they are spread evenly.
    """
    plan = contender.plan
    if plan.placing == "session":
        plan = replace(plan, placing="least")
    inside = sum(pool.replicas * pool.rows for pool in plan.pools.values())
    arrivals, answers = Load("closed", inside), max(LEAST // 2, 4 * inside)
    return simulate(contender.scripts, plan, arrivals, answers).answers_per_second


def compare(
    routed: Contender,
    recorded: Sequence[Script],
    tariffs: Mapping[Writer, Tariff] | None = None,
    answers: int | None = None,
    told: Callable[[], object] = lambda: None,
) -> Comparison:
    """Put the same loads on both ways to answer.

    That is routing, and the large model alone. A fleet that divides into equal ones is reckoned by
    one of them.

    Args:
        routed: answers and fleet.
        recorded: the large model's own answers.
        tariffs: what passes cost.
        answers: of each run; by default as many as :func:`enough` says.
        told: is called after each of about :data:`RUNS` runs.
    """
    parts = common(routed.plan)
    part = part_of(routed, parts)
    both = {"routed": part, "alone": large_alone(part, recorded)}
    carried = {}
    for name, contender in both.items():
        carried[name] = most_carried(contender)
        told()

    def at(rate: float) -> LoadPoint:
        found = {}
        for name, contender in both.items():
            arrivals = Load("poisson", rate)
            n = answers or enough(contender, arrivals)
            found[name] = simulate(contender.scripts, contender.plan, arrivals, n, tariffs)
            told()
        return LoadPoint(rate, **found)

    top = max(carried.values())
    points = [at(share * top) for share in PARTS]
    turns = [
        _turn(low, high, at) for low, high in itertools.pairwise(points) if low.pays != high.pays
    ]
    return Comparison(
        {name: rate * parts for name, rate in carried.items()},
        [replace(point, rate=point.rate * parts) for point in points],
        [turn * parts for turn in turns],
        parts,
    )


def _turn(low: LoadPoint, high: LoadPoint, at: Callable[[float], LoadPoint]) -> float:
    """The load between two at which the verdict changes."""
    bottom, top = low.rate, high.rate
    for _ in range(_HALVINGS):
        middle = (bottom + top) / 2
        if at(middle).pays == low.pays:
            bottom = middle
        else:
            top = middle
    return (bottom + top) / 2


def _slowness(found: Simulated) -> float:
    """Seconds of an answer; those of a queue that grows have no end."""
    return found.mean if found.carried else math.inf
