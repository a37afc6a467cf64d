"""The problems that ``steer eval`` asks, by its options.

--tasks, --domains, --n, --split, --checker and --seeds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SteerError
from .models import DEMO, Models

if TYPE_CHECKING:
    from ..evaluation.tasks import Task

DEFAULT_N = 300
_GYM = "reasoning-gym"
_SPLIT = " (commas separate tasks, but for those in the name of a file that is there)"


def words(text: str) -> list[str]:
    """The parts of a list with commas, each once."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def sources(spec: str | Sequence[str] | None) -> list[str]:
    """What --tasks names, each once.

    Lists with commas, any number of them. A comma inside brackets or quotes separates nothing, nor
    does one in the name of a file that is there.
    """
    from ..evaluation.tasks.separated import separated

    given = [DEMO] if spec is None else [spec] if isinstance(spec, str) else spec
    parts = [part.strip() for text in given for part in separated(text, ",", _is_there)]
    return list(dict.fromkeys(part for part in parts if part))


def _is_there(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # too long for a name, or no name at all
        return False


def read_tasks(
    spec: str | Sequence[str] | None,
    models: Models,
    domains: str,
    n: int | None,
    split: str,
    checker: str | None,
) -> list[Task]:
    """Read the tasks of all sources named in ``spec``.

    At most ``n`` of each domain.

    Raises:
        SteerError: an unknown source, or one that this pair cannot be asked.
    """
    from ..evaluation.tasks import CHECKERS, check_unique, demo_tasks, gym_tasks, jsonl_tasks

    if n is not None and n < 1:
        raise SteerError(f"--n must be at least 1, got {n}")
    if spec is None and not models.demo:
        raise SteerError(
            "--tasks is missing: the demo's problems are in words that no other pair knows, so "
            f"give a JSON lines file or {_GYM}:NAME, or leave out --small and --large"
        )
    named = sources(spec)
    if not named:
        raise SteerError(f"no tasks: give {DEMO}, {_GYM}:NAME or a JSON lines file")
    found: list[Task] = []
    files = [source for source in named if _is_file(source)]
    for source in named:
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
            found += jsonl_tasks(Path(source), checker or CHECKERS[0], per_domain=n)
        else:
            raise SteerError(
                f"unknown tasks {source!r}: give {DEMO}, {_GYM}:NAME or a JSON lines file"
                f"{_SPLIT if len(named) > 1 else ''}"
            )
    if checker is not None and not files:
        raise SteerError("--checker judges a file of tasks: name one in --tasks, or leave it out")
    return check_unique(found)


def _is_file(source: str) -> bool:
    if source == DEMO or source.partition(":")[0] == _GYM:
        return False
    return Path(source).suffix.lower() in (".jsonl", ".json") or _is_there(source)


def read_seeds(text: str) -> list[int]:
    """Read the seeds of an evaluation.

    Raises:
        SteerError: none, or something that is no whole number of 0 or more.
    """
    parts = words(text)
    wrong = [part for part in parts if not re.fullmatch(r"\d{1,9}", part, re.ASCII)]
    if wrong or not parts:
        got = repr(wrong[0]) if wrong else "none"
        raise SteerError(f"--seeds must be whole numbers from 0 on, as in 0,1,2; got {got}")
    return list(dict.fromkeys(map(int, parts)))


def folder_name(spec: str | Sequence[str] | None, split: str) -> str:
    """What a folder of results is called after, under results/."""
    named = sources(spec)
    if named == [DEMO]:
        return f"{DEMO}-{split}"
    first = named[0]
    bare = Path(first).stem if ":" not in first else first
    return re.sub(r"[^\w.-]+", "-", bare)[:60]
