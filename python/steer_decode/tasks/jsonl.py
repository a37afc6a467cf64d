"""A user's own questions: JSON lines with "prompt" and "answer"."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import SteerError
from .base import Task
from .checkers import Checker, load_checker, math_verify, reference


def jsonl_tasks(path: Path, checker: str, n: int | None = None) -> list[Task]:
    """The first ``n`` problems of a file, or all.

    A line holds "prompt" and "answer", and may hold "id" (else the number of its line), "domain"
    (else the name of the file) and "difficulty", a whole number.

    Args:
        path: the file.
        checker: a name or MODULE:FUNCTION, as :func:`load_checker` takes it.
        n: how many; None is all.

    Raises:
        SteerError: a file or line that cannot be read, an id that occurs twice, an answer that
            the checker cannot read.
    """
    function = load_checker(checker)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SteerError(f"cannot read tasks {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SteerError(f"{str(path)!r} is not UTF-8 text") from error
    # Not splitlines: a line separator inside a JSON text is no end of line.
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise SteerError(f'{str(path)!r} holds no problems: give one {{"prompt", "answer"}} a line')
    seen: dict[tuple[str, str], int] = {}
    tasks = []
    for number, line in lines[:n]:
        where = f"line {number} of {str(path)!r}"
        task = replace(_task(line, number, path.stem, function, where), checker=checker)
        first = seen.setdefault((task.domain, task.problem), number)
        if first != number:
            raise SteerError(
                f"id {task.problem!r} of {str(path)!r} is there twice, in lines {first} and "
                f"{number}: give each problem an id of its own"
            )
        tasks.append(task)
    return tasks


def _task(line: str, number: int, domain: str, checker: Checker, where: str) -> Task:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SteerError(f"{where} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise SteerError(f'{where} is not an object with "prompt" and "answer"')
    prompt, answer = _text(record, "prompt", where), _text(record, "answer", where)
    difficulty = record.get("difficulty")
    if difficulty is not None and type(difficulty) is not int:
        raise SteerError(f"{where}: difficulty must be a whole number, got {difficulty!r}")
    if checker is math_verify and not reference(answer):
        raise SteerError(
            f"{where}: math-verify reads no mathematics in the answer {answer!r}: "
            "mend it, or choose --checker exact"
        )
    return Task(
        domain=_text({"domain": domain, **record}, "domain", where),
        problem=_text({"id": number, **record}, "id", where),
        prompt=prompt,
        answer=answer,
        check=partial(_check, checker, answer),
        difficulty=difficulty,
    )


def _text(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if type(value) in (int, float):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        got = "nothing" if value is None else repr(value)
        raise SteerError(f"{where}: {key!r} must be a text, got {got}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SteerError(f"{where}: {key!r} holds half a character (a lone surrogate)") from error
    return value


def _check(checker: Checker, answer: str, text: str) -> bool:
    return checker(text, answer)
