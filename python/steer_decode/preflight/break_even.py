"""Where routing can save anything, by each cost.

It follows from the costs of a token of either model. Let the large model write a share s of the
text, r be what a token of the small model costs beside one of the large model, and "saves" mean:
costs less than the large model alone.

FLOPs as the papers count them: s + (1 - s) r. Saves at any s below 1 where r is below 1. With a
share d of discarded tokens: below 1 - d r / (1 - r).

FLOPs processed: a model reads all that stands before the last token that it writes, and to read a
token costs what writing it does, but for the head. Let p be the share of the text, prompt
included, up to where the large model writes last, and let the small model read to the end:
p + r. Saves where p is below 1 - r. As s is at most p, no s from 1 - r on can save; and below it
everything depends on where in the text the large model is asked, not on how often.

Bytes: weights are read once a pass, and what is pending at a hand-over is read in the pass of the
next token. So s + (1 - s) r, which saves at any s below 1, but for two things. A draft that the
large model only reads takes a pass; it pays where it is so long that the small model's tokens have
saved as much. And of a mixture of experts a pass over many tokens reads more experts than one over
a single token, so that a hand-over has to be as long too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..core.shape import ModelShape

_LONGEST = 100_000  # tokens; what does not pay until here does not pay


@dataclass(frozen=True)
class BreakEven:
    """A cost of either model's token, and where routing saves.

    Attributes:
        cost: "papers", "processed" or "bytes".
        small, large: of a token, in FLOPs or bytes.
        share: the large model's share of the tokens, from which on nothing is saved; 0 where
            nothing ever is. For "processed" a bound: the share of the text up to where it writes
            last has to be below it.
        hand_over: tokens of the small model between two of the large one from which on they save.
        draft: tokens of a draft that the large model reads, from which on reading saves. None where
            it never does.
    """

    cost: str
    small: float
    large: float
    share: float
    hand_over: int | None
    draft: int | None

    @property
    def ratio(self) -> float:
        """The cost of a small model's token over a large's."""
        return self.small / self.large


def break_even(
    small: ModelShape, large: ModelShape, context: int, rows: int = 1
) -> tuple[BreakEven, ...]:
    """Where routing can save, by each of the three costs.

    Args:
        small, large: sizes of the models.
        context: tokens that stand before the token whose cost is taken.
        rows: answers that are written together and share the reading of the weights.
    """
    return (
        _papers(small, large),
        _processed(small, large, context),
        _bytes(small, large, context, rows),
    )


def _papers(small: ModelShape, large: ModelShape) -> BreakEven:
    a, b = 2.0 * small.active, 2.0 * large.active
    least = 1 if a < b else None  # reading is free
    return BreakEven("papers", a, b, float(a < b), least, least)


def _processed(small: ModelShape, large: ModelShape, context: int) -> BreakEven:
    a, b = float(small.flops(1, context)), float(large.flops(1, context))
    # Nothing that the large model reads is cheaper than written by it, but for the head.
    return BreakEven("processed", a, b, max(0.0, 1 - a / b), None, None)


def _bytes(small: ModelShape, large: ModelShape, context: int, rows: int) -> BreakEven:
    a, b = small.bytes_read(context, rows), large.bytes_read(context, rows)

    def read(tokens: int) -> float:
        return large.bytes_read(context, rows, tokens=rows * tokens)

    hand_over = _least(lambda n: n * (b - a) > read(n + 1) - b)
    draft = _least(lambda n: n * (b - a) > read(n))
    return BreakEven("bytes", a, b, float(a < b), hand_over, draft)


def _least(pays: Callable[[int], bool]) -> int | None:
    """The least number of tokens that pays; doubled, then halved in between."""
    high = 1
    while not pays(high):
        high *= 2
        if high > _LONGEST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if pays(middle) else (middle, high)
    return high
