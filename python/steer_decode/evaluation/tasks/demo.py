"""The problems that the demo pair was trained for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ...demo import DOMAINS, Problem, grade, problems
from ...errors import SteerError
from .base import Task

# In these domains a problem has one right next step; a plan has many.
_LABELLED = ("math", "qa")


def demo_tasks(domains: Sequence[str], n: int, split: str = "test") -> list[Task]:
    """The first ``n`` problems of each domain.

    Raises:
        SteerError: an unknown domain or split, or more problems than there are.
    """
    if n < 1:
        raise SteerError(f"--n must be at least 1, got {n}")
    unknown = [name for name in domains if name not in DOMAINS]
    if unknown or not domains:
        wrong = f"unknown domain {unknown[0]!r}" if unknown else "no domains"
        raise SteerError(f"{wrong}: choose from {', '.join(DOMAINS)}")
    try:
        found = [p for name in domains for p in problems(name, n, split=split)]
    except ValueError as error:
        raise SteerError(str(error)) from error
    return [_task(problem) for problem in found]


def _task(problem: Problem) -> Task:
    return Task(
        domain=problem.domain,
        problem=str(problem.index),
        prompt=problem.prompt,
        answer=problem.solution,
        check=partial(grade, problem),
        difficulty=problem.difficulty,
        label=partial(_is_reference, problem.steps) if problem.domain in _LABELLED else None,
    )


def _is_reference(steps: Sequence[str], index: int, text: str) -> bool:
    return index < len(steps) and text.replace("<eos>", "").split() == steps[index].split()
