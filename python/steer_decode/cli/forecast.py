"""How long a command will take, said before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import SteerError
from . import say

if TYPE_CHECKING:
    from ..models.pair import Pair
    from ..preflight.pace import Work


def say_how_long(
    pair: Pair,
    prompts: Sequence[str],
    options: Mapping[str, Any],
    work: Sequence[Work],
    *,
    lengths: Sequence[float] = (),
    bound: str = "about",
    workers: int = 1,
) -> None:
    """Say how long work will take, by timed passes.

    Nothing is said, nor timed, where it is next to nothing.

    Args:
        pair: the models.
        prompts: the first cohort.
        options: of ``Router.stream_cohort``.
        work: what is to be written.
        lengths: tokens of answers that are there already.
        bound: "about", "at least" or "at most".
        workers: processes that share the work.
    """
    from ..preflight import pace
    from .view.terminal import lines

    limit = int(options.get("max_new_tokens", 1024))
    answers = sum(one.answers for one in work)
    if not prompts or pace.negligible(pair, answers, limit):
        return
    try:
        with lines("timing the models"):
            found = pace.measure(pair, prompts, options, lengths)
    except SteerError:  # what ends the work as well, and says so where it does
        return
    say.note(pace.sentence(found, work, bound, workers))
