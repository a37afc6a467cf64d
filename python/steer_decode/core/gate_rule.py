"""Where a model goes on writing, as engines may decide.

A policy judges steps. Where its verdict is a matter of one number, the score of the step that was
just written or the signal of the token that is to open the next one, it can be told to an engine
beforehand, as the numbers at which the model that writes goes on. Elsewhere it hands over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import SteerError
from ..util.text import short

SCORES = ("mean", "min")
_NONE = "none"


@dataclass(frozen=True)
class Region:
    """Numbers: a union of closed intervals.

    Attributes:
        intervals: (low, high) each, in ascending order and apart; ends may be infinite.

    Raises:
        SteerError: intervals that overlap, stand in another order, or have a NaN.
    """

    intervals: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        apart = all(a[1] < b[0] for a, b in pairwise(self.intervals))
        if not (apart and all(low <= high for low, high in self.intervals)):
            raise SteerError(
                f"intervals must be low:high, ascending and apart, got {short(str(self))}"
            )

    @classmethod
    def at_least(cls, low: float) -> Region:
        return cls(((low, math.inf),))

    @classmethod
    def at_most(cls, high: float) -> Region:
        return cls(((-math.inf, high),))

    @classmethod
    def where(
        cls,
        holds: Callable[[float], bool],
        turns: Sequence[float] = (),
        within: tuple[float, float] = (-1e30, 1e30),
    ) -> Region:
        """Where ``holds`` is true, to the last bit.

        Args:
            holds: of a number; between two of ``turns`` it changes once at most.
            turns: those numbers, in ascending order.
            within: the numbers that it is asked about. Beyond, it is as at the nearer end.
        """
        first, last = within
        stops = [first, *(turn for turn in turns if first < turn < last), last]
        found: list[tuple[float, float]] = []
        for low, high in pairwise(stops):
            at_low, at_high = holds(low), holds(high)
            if at_low == at_high:
                part = (low, high) if at_low else None
            else:
                left, right = _flip(holds, low, high)
                part = (low, left) if at_low else (right, high)
            if part is None:
                continue
            if found and found[-1][1] == part[0]:
                part = found.pop()[0], part[1]
            found.append(part)
        if found and found[0][0] == first:
            found[0] = -math.inf, found[0][1]
        if found and found[-1][1] == last:
            found[-1] = found[-1][0], math.inf
        return cls(tuple(found))

    @classmethod
    def parse(cls, text: str) -> Region:
        """Read what ``str`` writes: ``low:high,low:high`` or ``none``.

        Raises:
            SteerError: it is something else.
        """
        if text == _NONE:
            return NOWHERE
        found = []
        for part in text.split(","):
            try:
                low, high = map(float, part.split(":"))
            except ValueError:
                raise SteerError(
                    f"a region is low:high,low:high or {_NONE}, got {short(text)}"
                ) from None
            found.append((low, high))
        return cls(tuple(found))

    def __contains__(self, value: float) -> bool:
        return any(low <= value <= high for low, high in self.intervals)

    def __invert__(self) -> Region:
        """All other numbers."""
        start, found = -math.inf, []
        for low, high in self.intervals:
            if low > start:
                found.append((start, math.nextafter(low, -math.inf)))
            if high == math.inf:
                break
            start = math.nextafter(high, math.inf)
        else:
            found.append((start, math.inf))
        return Region(tuple(found))

    def __neg__(self) -> Region:
        """The region of the numbers with the other sign."""
        return Region(tuple((-high, -low) for low, high in reversed(self.intervals)))

    def __str__(self) -> str:
        return ",".join(f"{low!r}:{high!r}" for low, high in self.intervals) or _NONE


NOWHERE = Region(())
EVERYWHERE = Region(((-math.inf, math.inf),))


def _flip(holds: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Two neighbouring floats between which ``holds`` changes."""
    at_low = holds(low)
    while True:
        middle = low + (high - low) / 2
        if not low < middle < high:
            return low, high
        if holds(middle) == at_low:
            low = middle
        else:
            high = middle


@dataclass(frozen=True)
class GateRule:
    """Where the writer goes on; elsewhere it hands over.

    Attributes:
        signal: name of what is read off each token's raw logits, one of ``core.signals.SIGNALS``.
        before: of the signal at the token that is to open a step; None where nobody looks.
        after: of the score of a step that has closed, by the step's index, the last one for all
            later ones; empty where steps are not judged.
        score: what a step's score is of its tokens' signals, "mean" or "min".
    """

    signal: str = "max-logit"
    before: Region | None = None
    after: tuple[Region, ...] = ()
    score: str = "mean"

    def stays(self, index: int, score: float) -> bool:
        """Whether the writer goes on after such a step."""
        return not self.after or score in self.after[min(index, len(self.after) - 1)]

    def opens(self, value: float) -> bool:
        """Whether the writer writes a step that begins so."""
        return self.before is None or value in self.before
