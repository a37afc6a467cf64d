"""Procedural problems of reasoning-gym, where that package is installed."""

from __future__ import annotations

import json
import pickle
import subprocess
from functools import partial
from importlib.util import find_spec
from typing import Any

from ...errors import SteerError
from .base import Task, final_answer
from .child import command, environment
from .separated import separated

PREFIX = "reasoning-gym:"
_ASK = "\n\nThink step by step, and give the final answer alone between <answer> and </answer>."


def gym_tasks(spec: str, n: int) -> list[Task]:
    """The first ``n`` problems of a data set.

    The seed is 0 unless the specification has another.

    Args:
        spec: ``NAME`` or ``NAME:KEY=VALUE:...``, settings as the data set's configuration has them.
        n: how many. Problem i is the same whatever ``n`` is, in every process.

    Raises:
        SteerError: the package is missing, the name or a setting unknown.
    """
    if n < 1:
        raise SteerError(f"--n must be at least 1, got {n}")
    if find_spec("reasoning_gym") is None:
        raise SteerError(
            f"tasks {PREFIX + spec!r} need the package: pip install steer-kernels[eval]"
        )
    name, *parts = separated(spec, ":")
    try:
        settings = {"seed": 0, **dict(map(_setting, parts))}
        if type(settings["seed"]) is not int:
            raise ValueError(f"seed must be a whole number, got {settings['seed']!r}")
        entries = _entries(name, n, settings)
        judge = _Judge(name, n, settings)
    except Exception as error:  # its configurations check themselves with assertions
        raise SteerError(f"tasks {PREFIX + spec!r}: {error}") from error
    return [_task(spec, i, judge, entry) for i, entry in enumerate(entries)]


def _entries(name: str, n: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Problems made in a process of its own, where nothing of this one can change them."""
    done = subprocess.run(
        command("gym_process.py"),
        input=json.dumps({"name": name, "n": n, "settings": settings}).encode(),
        capture_output=True,
        env=environment(PYTHONHASHSEED="0"),
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ValueError(f"its problems cannot be made: {''.join(last) or done.returncode}")
    said = pickle.loads(done.stdout)  # of our own script
    if isinstance(said, str):
        raise ValueError(said)
    return said


class _Judge:
    """Scores of a data set, which is made when first asked: it may make all its problems then."""

    def __init__(self, name: str, n: int, settings: dict[str, Any]) -> None:
        self._given = (name, n, settings)
        self._data: Any = None

    def score(self, answer: str, entry: dict[str, Any]) -> float:
        if self._data is None:
            from .gym_process import data_set

            self._data = data_set(*self._given)
        return self._data.score_answer(answer, entry)


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"setting {text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _task(domain: str, index: int, judge: _Judge, entry: dict[str, Any]) -> Task:
    return Task(
        domain=domain,
        problem=str(index),
        prompt=entry["question"].strip() + _ASK,
        answer=str(entry["answer"]),
        check=partial(_check, judge, entry),
    )


def _check(judge: _Judge, entry: dict[str, Any], text: str) -> bool:
    # Scores below 1 are consolation for form or for coming close.
    return bool(judge.score(final_answer(text), entry) >= 1.0)
