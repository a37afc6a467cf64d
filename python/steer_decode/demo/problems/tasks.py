"""The three domains behind one face.

`problems`, `grade`, and `draw` for training.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import ModuleType

from . import mathematics, planning, question_answering
from .problem import DIFFICULTIES, SPLITS, Problem, split_of

_TASKS: dict[str, ModuleType] = {
    task.DOMAIN: task for task in (mathematics, question_answering, planning)
}
DOMAINS = ("math", "qa", "planning")

_TRIES = 5_000  # draws in a row without a new prompt after which a stream counts as used up


def _task(domain: str) -> ModuleType:
    if domain not in _TASKS:
        raise ValueError(f"domain={domain!r} is unknown; choose one of {', '.join(DOMAINS)}.")
    return _TASKS[domain]


def draw(
    domain: str, rng: random.Random, difficulty: int, steps: int | None = None
) -> tuple[str, str]:
    """One random (prompt, solution) of any split.

    `steps` are as in the test problems unless given.
    """
    task = _task(domain)
    return task.draw(rng, difficulty, rng.randint(*task.STEPS) if steps is None else steps)


def draw_training(
    domain: str, rng: random.Random, difficulty: int, steps: int | None = None
) -> tuple[str, str]:
    """Like `draw`, but only prompts of the training split."""
    while True:
        prompt, solution = draw(domain, rng, difficulty, steps)
        if split_of(prompt) == "train":
            return prompt, solution


def _stream(domain: str, split: str, difficulty: int) -> Iterator[Problem]:
    """The endless, fixed sequence of distinct problems of one domain, split and difficulty."""
    rng = random.Random(f"{domain}/{split}/{difficulty}")
    seen: set[str] = set()
    while True:
        for _ in range(_TRIES):
            prompt, solution = draw(domain, rng, difficulty)
            if split_of(prompt) == split and prompt not in seen:
                break
        else:
            raise ValueError(
                f"n is too large: {domain!r} has only about {len(seen)} {split} problems of "
                f"difficulty {difficulty}; ask for fewer."
            )
        index = len(seen) * len(DIFFICULTIES) + difficulty - 1
        seen.add(prompt)
        yield Problem(domain, difficulty, index, prompt, solution)


def problems(
    domain: str, n: int, split: str = "test", difficulty: int | None = None
) -> list[Problem]:
    """The first `n` problems of a split.

    Difficulties are 1 to 5 in turn, or all the one that is given. Problem i is the same whatever
    `n` is, and no prompt occurs twice or in two splits. Raises ValueError for an unknown domain,
    split or difficulty, and for an n below 0 or beyond the number of problems there are.
    """
    _task(domain)
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; choose one of {', '.join(SPLITS)}.")
    if difficulty is not None and difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty={difficulty!r} must be 1, 2, 3, 4 or 5, or None for all.")
    if n < 0:
        raise ValueError(f"n={n} must not be negative; give the number of problems wanted.")
    levels = DIFFICULTIES if difficulty is None else (difficulty,)
    streams = [_stream(domain, split, level) for level in levels]
    return [next(streams[i % len(streams)]) for i in range(n)]


def grade(problem: Problem, completion: str) -> bool:
    """Whether `completion` solves `problem`; garbage does not.

    It is the text after the prompt. Mathematics and QA: the word after the first "answer" is right.
    Planning: the steps are any way from start to goal that keeps off the walls. Text after an end
    token is not read.
    """
    return bool(_task(problem.domain).grade(problem.prompt, completion.split("<eos>")[0]))
