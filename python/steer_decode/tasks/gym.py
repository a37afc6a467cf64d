"""Procedural problems of reasoning-gym, where that package is installed."""

from __future__ import annotations

import json
from functools import partial
from importlib.util import find_spec
from typing import Any

from ..errors import SteerError
from .base import Task, final_answer

PREFIX = "reasoning-gym:"
_ASK = "\n\nThink step by step, and give the final answer alone between <answer> and </answer>."


def gym_tasks(spec: str, n: int) -> list[Task]:
    """The first ``n`` problems of a data set, with seed 0 unless the specification has another.

    Args:
        spec: ``NAME`` or ``NAME:KEY=VALUE:...``, settings as the data set's configuration has them.
        n: how many. Problem i is the same whatever ``n`` is.

    Raises:
        SteerError: the package is missing, the name or a setting unknown.
    """
    if n < 1:
        raise SteerError(f"--n must be at least 1, got {n}")
    if find_spec("reasoning_gym") is None:
        raise SteerError(
            f"tasks {PREFIX + spec!r} need the package: pip install steer-kernels[eval]"
        )
    import reasoning_gym

    name, *parts = spec.split(":")
    try:
        settings = {"seed": 0, **dict(map(_setting, parts))}
        data = reasoning_gym.create_dataset(name, size=n, **settings)
        entries = [data[i] for i in range(n)]
    except Exception as error:  # its configurations check themselves with assertions
        raise SteerError(f"tasks {PREFIX + spec!r}: {error}") from error
    return [_task(spec, i, data, entry) for i, entry in enumerate(entries)]


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"setting {text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _task(domain: str, index: int, data: Any, entry: dict[str, Any]) -> Task:
    return Task(
        domain=domain,
        problem=str(index),
        prompt=entry["question"].strip() + _ASK,
        answer=str(entry["answer"]),
        check=partial(_check, data, entry),
    )


def _check(data: Any, entry: dict[str, Any], text: str) -> bool:
    # Scores below 1 are consolation for form or for coming close.
    return bool(data.score_answer(final_answer(text), entry) >= 1.0)
