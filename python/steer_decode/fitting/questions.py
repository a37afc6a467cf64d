"""Questions with a checker, and their answers in cohorts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ..core.events import RoutedOutput
from ..decode.router import Router
from ..models.pair import Pair
from ..policies import Policy
from ..util.partial import Partial
from .kept import kept_answers

COHORT = 48  # answers that advance together


@dataclass(frozen=True)
class CheckedPrompt:
    """A question, and whether a text answers it."""

    prompt: str
    right: Callable[[str], bool]


def answers(
    pair: Pair,
    policy: Policy,
    tasks: Sequence[CheckedPrompt],
    max_new_tokens: int,
    seed: int = 0,
    kept: Partial | None = None,
) -> Iterator[tuple[CheckedPrompt, RoutedOutput]]:
    """Greedy answers to ``tasks``, in order.

    The i-th has the seed ``seed + i``. ``kept`` keeps them over an interruption, cohort by cohort.
    """
    router = Router(pair, policy)
    for start in range(0, len(tasks), COHORT):
        part = tasks[start : start + COHORT]
        prompts = [task.prompt for task in part]
        make = partial(router.cohort, prompts, max_new_tokens=max_new_tokens, seed=seed + start)
        outputs = make() if kept is None else kept_answers(kept, make)
        yield from zip(part, outputs, strict=True)
