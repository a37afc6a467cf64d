"""Passes of either model alone, timed in our loop.

Some rows read prompts in one pass, and write a few tokens more, a pass each. A pass is all that
lies between two tokens of a row: forward, sampling, and the loop's work on the host. Each is timed
several times and the median counts, for what is to be foretold is what passes take and not what
they could; with one thread the clock is the thread's CPU time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from ...core.events import TextDelta
from ...core.transcript import WRITERS, Writer
from ...decode.router import Router
from ...errors import SteerError
from ...models.pair import Pair
from ...policies import AlwaysLarge, AlwaysSmall
from ..decode.turns import Clock, clock

TOKENS = 8  # that each row writes
_MOST_ROWS, _MOST_LENGTH = 1024, 100_000


@dataclass(frozen=True)
class PassesPlan:
    """What is timed.

    Attributes:
        rows: answers at a time.
        lengths: tokens of their prompts.
        turns: of each; the median counts.

    Raises:
        SteerError: nothing is to be timed, or a number is out of bounds.
    """

    rows: Sequence[int] = (1, 2, 4, 8, 16)
    lengths: Sequence[int] = (4, 24, 96)
    turns: int = 9

    def __post_init__(self) -> None:
        for name, values, most in (
            ("rows", self.rows, _MOST_ROWS),
            ("lengths", self.lengths, _MOST_LENGTH),
            ("turns", [self.turns], 1000),
        ):
            if not values or not all(1 <= value <= most for value in values):
                given = ",".join(map(str, values))
                raise SteerError(f"--{name} must lie in 1..{most}, got {given!r}")
        if 1 not in self.rows:
            raise SteerError("--rows must have 1 among them, from which the others are reckoned")


def measure(
    pair: Pair,
    texts: Sequence[str],
    plan: PassesPlan,
    told: Callable[[], object] = lambda: None,
) -> dict[Writer, list[dict[str, float]]]:
    """Time passes of both models.

    Args:
        pair: the models.
        texts: of which prompts are cut.
        plan: what is timed.
        told: is called after each of the plan's ``rows`` times ``lengths``, for either model.

    Returns:
        For each model passes: "rows", "tokens" of all rows, and "ms".

    Raises:
        SteerError: prompts so long do not fit into the context.
    """
    now = clock(torch.get_num_threads())
    ids = [token for text in texts for token in pair.encode(text)]
    longest = max(plan.lengths)
    if pair.max_length is not None and longest + TOKENS > pair.max_length:
        raise SteerError(
            f"--lengths must leave room for {TOKENS} tokens in the models' context of "
            f"{pair.max_length}, got {longest}"
        )
    found: dict[Writer, list[dict[str, float]]] = {}
    for writer, policy in zip(WRITERS, (AlwaysSmall(), AlwaysLarge()), strict=True):
        router, passes = Router(pair, policy), []
        for rows in plan.rows:
            for length in plan.lengths:
                prompts = list(_prompts(ids, rows, length))
                passes += _passes(router, prompts, plan.turns, now)
                told()
        found[writer] = passes
    return found


def _prompts(ids: Sequence[int], rows: int, length: int) -> Iterator[list[int]]:
    """Prompts of about ``length`` tokens, no two of one length, as answers in the making are."""
    for row in range(rows):
        n, begin = max(1, length + row % 5 - 2), row * 7 % len(ids)
        yield [ids[(begin + i) % len(ids)] for i in range(n)]


def _passes(
    router: Router, prompts: list[list[int]], turns: int, now: Clock
) -> list[dict[str, float]]:
    """The first pass, over the prompts, and the mean of those over a token of each."""
    router.cohort(prompts, max_new_tokens=TOKENS)  # buffers grow and code paths warm
    times = [_marks(router, prompts, now) for _ in range(turns)]
    n = min(map(len, times))
    each = [median(time[i] for time in times) for i in range(n)]
    rows, tokens = len(prompts), sum(map(len, prompts))
    found = [{"rows": rows, "tokens": tokens, "ms": 1e3 * each[0]}]
    if n > 1:
        found.append({"rows": rows, "tokens": rows, "ms": 1e3 * sum(each[1:]) / (n - 1)})
    return found


def _marks(router: Router, prompts: list[list[int]], now: Clock) -> list[float]:
    """Seconds of each pass over all rows, until the first of them has ended."""
    cohort = router.stream_cohort(prompts, max_new_tokens=TOKENS)
    times: list[float] = []
    written = [0] * len(prompts)
    last = now()
    for row, event in cohort:
        if not isinstance(event, TextDelta):
            continue
        written[row] += 1
        if min(written) == len(times) + 1 == max(written):  # the last row of this pass
            mark = now()
            times.append(mark - last)
            last = mark
    return times
