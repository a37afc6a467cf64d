"""What ``steer eval`` asks: --tasks, --domains, --n, --split, --checker and --seeds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SteerError
from .session import DEMO, Models

if TYPE_CHECKING:
    from ..tasks import Task

DEFAULT_N = 300
_GYM = "reasoning-gym"


def words(text: str) -> list[str]:
    """The parts of a list with commas, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def read_tasks(
    spec: str | None,
    models: Models,
    domains: str,
    n: int | None,
    split: str,
    checker: str | None,
) -> list[Task]:
    """The tasks of all sources named in ``spec``.

    Raises:
        SteerError: an unknown source, or one that this pair cannot be asked.
    """
    from ..tasks import CHECKERS, check_unique, demo_tasks, gym_tasks, jsonl_tasks

    if n is not None and n < 1:
        raise SteerError(f"--n must be at least 1, got {n}")
    if spec is None and not models.demo:
        raise SteerError(
            "--tasks is missing: the demo's problems are in words that no other pair knows, so "
            f"give a JSON lines file or {_GYM}:NAME, or leave out --small and --large"
        )
    sources = words(DEMO if spec is None else spec)
    if not sources:
        raise SteerError(f"no tasks: give {DEMO}, {_GYM}:NAME or a JSON lines file")
    found: list[Task] = []
    files = [source for source in sources if _is_file(source)]
    for source in sources:
        if source == DEMO:
            if not models.demo:
                raise SteerError("tasks 'demo' need the demo pair: leave out --small and --large")
            found += demo_tasks(words(domains), n or DEFAULT_N, split)
        elif source.partition(":")[0] == _GYM:
            name = source.partition(":")[2]
            if not name:
                raise SteerError(f"tasks {source!r} name no data set: give {_GYM}:NAME")
            found += gym_tasks(name, n or DEFAULT_N)
        elif source in files:
            found += jsonl_tasks(Path(source), checker or CHECKERS[0], n)
        else:
            raise SteerError(
                f"unknown tasks {source!r}: give {DEMO}, {_GYM}:NAME or a JSON lines file"
            )
    if checker is not None and not files:
        raise SteerError("--checker judges a file of tasks: name one in --tasks, or leave it out")
    return check_unique(found)


def _is_file(source: str) -> bool:
    if source == DEMO or source.partition(":")[0] == _GYM:
        return False
    return Path(source).suffix.lower() in (".jsonl", ".json") or Path(source).is_file()


def read_seeds(text: str) -> list[int]:
    """
    Raises:
        SteerError: none, or something that is no whole number of 0 or more.
    """
    parts = words(text)
    wrong = [part for part in parts if not re.fullmatch(r"\d{1,9}", part, re.ASCII)]
    if wrong or not parts:
        got = repr(wrong[0]) if wrong else "none"
        raise SteerError(f"--seeds must be whole numbers from 0 on, as in 0,1,2; got {got}")
    return list(dict.fromkeys(map(int, parts)))


def folder_name(spec: str | None, split: str) -> str:
    """What a folder of results is called after, under results/."""
    if spec in (None, DEMO):
        return f"{DEMO}-{split}"
    first = words(str(spec))[0]
    bare = Path(first).stem if ":" not in first else first
    return re.sub(r"[^\w.-]+", "-", bare)[:60]
