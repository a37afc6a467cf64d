"""A user's own questions: JSON lines with "prompt" and "answer"."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import SteerError
from ...util.text import short
from .base import Task
from .checkers import Checker, load_checker, math_verify, reference
from .formulas import Undecided
from .lines import read_lines, read_object, text_of

_FORM = 'one {"prompt", "answer"} a line'


def jsonl_tasks(
    path: Path, checker: str, n: int | None = None, *, per_domain: int | None = None
) -> list[Task]:
    """The first ``n`` problems of a file, or all.

    A line holds "prompt" and "answer", and may hold "id" (else the number of its line), "domain"
    (else the name of the file) and "difficulty", a whole number.

    Args:
        path: the file.
        checker: a name or MODULE:FUNCTION, as :func:`load_checker` takes it.
        n: how many; None is all.
        per_domain: how many of each domain, its first ones; None is all.

    Raises:
        SteerError: a file or line that cannot be read, an id that occurs twice, an answer that
            the checker cannot read.
    """
    function = load_checker(checker)
    seen: dict[tuple[str, str], int] = {}
    counts: Counter[str] = Counter()
    tasks = []
    for number, line in read_lines(path, "tasks", _FORM)[:n]:
        where = f"line {number} of {str(path)!r}"
        record = read_object(line, where, 'an object with "prompt" and "answer"')
        domain = text_of({"domain": path.stem, **record}, "domain", where)
        counts[domain] += 1
        if per_domain is not None and counts[domain] > per_domain:
            continue
        problem = text_of({"id": number, **record}, "id", where)
        first = seen.setdefault((domain, problem), number)
        if first != number:
            raise SteerError(
                f"id {problem!r} of {str(path)!r} is there twice, in lines {first} and "
                f"{number}: give each problem an id of its own"
            )
        task = _task(record, domain, problem, function, where)
        tasks.append(replace(task, checker=checker))
    return tasks


def _task(record: dict[str, Any], domain: str, problem: str, checker: Checker, where: str) -> Task:
    prompt, answer = text_of(record, "prompt", where), text_of(record, "answer", where)
    difficulty = record.get("difficulty")
    if difficulty is not None and not (type(difficulty) is int and abs(difficulty) <= 2**31):
        raise SteerError(f"{where}: difficulty must be a whole number, got {short(difficulty)}")
    if checker is math_verify:
        _check_reference(answer, where)
    return Task(
        domain=domain,
        problem=problem,
        prompt=prompt,
        answer=answer,
        check=partial(_check, checker, answer),
        difficulty=difficulty,
        where=where,
    )


def _check_reference(answer: str, where: str) -> None:
    try:
        found = reference(answer)
    except Undecided as error:
        raise SteerError(
            f"{where}: the answer {answer!r} is too much for math-verify ({error}): "
            "mend it, or choose --checker exact"
        ) from error
    if not found:
        raise SteerError(
            f"{where}: math-verify reads neither mathematics nor words in the answer {answer!r}: "
            "mend it, or choose --checker exact"
        )


def _check(checker: Checker, answer: str, text: str) -> bool:
    return checker(text, answer)
