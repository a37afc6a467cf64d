"""How many engines carry a load.

The fleet that is found is one from which no engine can be taken: first as few large engines as will
do while there are plenty of small ones, for those are the dear ones, and then as few small ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..core.transcript import WRITERS, Writer
from ..errors import SteerError
from ..util.text import significant
from .arrivals import Load
from .compare import LEAST, MOST, Contender, most_carried
from .run import simulate

MOST_ENGINES = 4096  # of a model
_SPANS = 5  # times an answer, which a run lasts at least


@dataclass(frozen=True)
class Target:
    """What a fleet is to carry.

    Attributes:
        rate: answers a second.
        within: seconds in which 95 of 100 answers are there.
        number: answers of a run; None for as many as show whether a queue grows.
    """

    rate: float
    within: float
    number: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("--carry", self.rate), ("--within", self.within)):
            if not 0 < value < 1e6:
                raise SteerError(f"{name} must be above 0 and below 1e6, got {value:g}")

    @property
    def answers(self) -> int:
        """Of a run."""
        return self.number or min(MOST, max(LEAST, math.ceil(_SPANS * self.rate * self.within)))


def size(
    contender: Contender, target: Target, told: Callable[[], object] = lambda: None
) -> Contender:
    """Find the fleet.

    Args:
        contender: answers, and a fleet whose pools are sized anew; a pool without engines stays so.
        target: what it is to carry.
        told: is called after each run.

    Raises:
        SteerError: an answer takes longer where it is alone, a run of so many answers is too short
            to tell, or :data:`MOST_ENGINES` are too few.
    """
    asked = [w for w in WRITERS if contender.plan.pools[w].replicas]

    def with_counts(counts: Mapping[Writer, int]) -> Contender:
        pools = {
            w: replace(pool, replicas=counts.get(w, 0)) for w, pool in contender.plan.pools.items()
        }
        return replace(contender, plan=replace(contender.plan, pools=pools))

    def carries(counts: Mapping[Writer, int]) -> bool:
        arrivals = Load("poisson", target.rate)
        plan = with_counts(counts).plan
        found = simulate(contender.scripts, plan, arrivals, target.answers)
        told()
        return found.carried and found.latency[95] <= target.within

    one = with_counts(dict.fromkeys(asked, 1))
    alone = simulate(one.scripts, one.plan, Load("closed", 1), max(20, len(one.scripts)), warm=0)
    if alone.latency[95] > target.within:
        raise SteerError(
            f"--within {target.within:g} cannot be kept: where no other answer is in the making, "
            f"one in twenty takes {significant(alone.latency[95])} s or more; give it more time"
        )
    if target.answers < _SPANS * target.rate * alone.mean:
        needed = math.ceil(_SPANS * target.rate * alone.mean)
        raise SteerError(
            f"--answers {target.answers} are over before it is seen whether a queue grows: give "
            f"{needed:,} or more at {target.rate:g} a second"
        )
    near = int(target.rate / most_carried(one) / 2)
    counts = dict.fromkeys(asked, min(MOST_ENGINES, max(1, near)))
    while not carries(counts):
        counts = {w: 2 * n for w, n in counts.items()}
        if max(counts.values()) > MOST_ENGINES:
            raise SteerError(
                f"{MOST_ENGINES} engines of each model are too few for --carry {target.rate:g} "
                f"within {target.within:g} s: give more time, or more --rows"
            )
    for writer in reversed(asked):  # the large ones first
        low, high = 0, counts[writer]
        while high - low > 1:
            middle = (low + high) // 2
            if carries({**counts, writer: middle}):
                high = middle
            else:
                low = middle
        counts[writer] = high
    return with_counts(counts)
