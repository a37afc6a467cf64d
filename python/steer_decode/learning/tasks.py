"""Questions with a checker, and their answers in cohorts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..events import RoutedOutput
from ..pair import Pair
from ..policies import Policy
from ..router import Router

COHORT = 48  # answers that advance together


@dataclass(frozen=True)
class Task:
    """A question, and whether a text answers it."""

    prompt: str
    right: Callable[[str], bool]


def answers(
    pair: Pair, policy: Policy, tasks: Sequence[Task], max_new_tokens: int, seed: int = 0
) -> Iterator[tuple[Task, RoutedOutput]]:
    """Greedy answers to ``tasks``, in order; the i-th has the seed ``seed + i``."""
    router = Router(pair, policy)
    for start in range(0, len(tasks), COHORT):
        part = tasks[start : start + COHORT]
        outputs = router.cohort(
            [task.prompt for task in part], max_new_tokens=max_new_tokens, seed=seed + start
        )
        yield from zip(part, outputs, strict=True)
