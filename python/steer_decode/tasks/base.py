"""A task: one question, and how an answer to it is judged."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..errors import SteerError


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
    """

    domain: str
    problem: str
    prompt: str
    answer: str
    check: Callable[[str], bool]
    difficulty: int | None = None
    checker: str = ""
    label: Callable[[int, str], bool] | None = None

    @property
    def name(self) -> str:
        return f"{self.domain}:{self.problem}"

    @property
    def number(self) -> int:
        """What distinguishes the draws of this problem from those of its neighbours."""
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
            raise SteerError(
                f"problem {task.problem!r} of {task.domain!r} is there twice: "
                "give each problem an id and each file a name of its own"
            )
        found[task.name] = task
    return list(found.values())


_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LEAD = re.compile(r"^(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\s*[:=]?\s*", re.IGNORECASE)


def final_answer(text: str) -> str:
    """What a text answers: the last ``<answer>``, else the last ``\\boxed{}``, else its last line.

    A last line may open with "answer", "The final answer is:" or the like, which is left out.
    """
    tagged = _TAG.findall(text)
    if tagged:
        return str(tagged[-1]).strip()
    boxed = _boxed(text)
    if boxed is not None:
        return boxed.strip()
    lines = [line for line in text.splitlines() if line.strip()]
    return _LEAD.sub("", lines[-1].strip()).strip() if lines else ""


def _boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin = start + len("\\boxed{")
    depth = 1
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place]
    return None
