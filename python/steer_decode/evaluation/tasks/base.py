"""A task: one question, and the judge of its answers."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...errors import SteerError
from .final import final_answer as final_answer


@dataclass(frozen=True)
class Task:
    """One question of an evaluation.

    Attributes:
        domain, problem: name it together; ``problem`` is unique in its domain.
        prompt: what is asked.
        answer: the reference, for the reader of a report.
        check: whether a text answers it; it may raise, which is recorded.
        difficulty: where the source has one.
        checker: name of what judges the answer, where there is a choice.
        label: whether a step, given its index and text, is right, where that can be told without
            the end of the answer.
        where: it comes from, where that is a line of a file.
    """

    domain: str
    problem: str
    prompt: str
    answer: str
    check: Callable[[str], bool]
    difficulty: int | None = None
    checker: str = ""
    label: Callable[[int, str], bool] | None = None
    where: str = ""

    @property
    def name(self) -> str:
        return f"{self.domain}:{self.problem}"

    @property
    def number(self) -> int:
        """A number that tells this problem's draws from its neighbours'."""
        if self.problem.isascii() and self.problem.isdecimal():
            return int(self.problem)
        return zlib.crc32(self.problem.encode())


def check_unique(tasks: Iterable[Task]) -> list[Task]:
    """The tasks as a list.

    Raises:
        SteerError: two of them have one name.
    """
    found: dict[str, Task] = {}
    for task in tasks:
        if task.name in found:
            places = [place for place in (found[task.name].where, task.where) if place]
            raise SteerError(
                f"problem {task.problem!r} of {task.domain!r} is there twice"
                f"{' (' + ' and '.join(places) + ')' if places else ''}: "
                "give each problem an id and each file a name of its own"
            )
        found[task.name] = task
    return list(found.values())
