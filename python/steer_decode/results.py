"""Results of an evaluation: JSON lines that survive interruptions, and what they were made with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from types import NoneType
from typing import Any, TextIO, TypeVar

from .calibration import write_whole
from .errors import SteerError
from .rows import Key, Problem, Row
from .transcript import WRITERS
from .util.interruption import held

FORMAT = 2
_SHOWN = 60
_FIGURE = (int, float, NoneType)
T = TypeVar("T")
# What may differ between runs that share a folder: routers may be added, the rest only describes.
_MERGED = ("routers", "signals")
_FREE = (*_MERGED, "about")


class ResultsFolder:
    """A folder that grows with its answers.

    ``results.jsonl`` has one line an answer, ``problems.jsonl`` what was asked, ``settings.json``
    what the answers were made with.

    Raises:
        SteerError: the folder cannot be written, is being written to by another run, holds results
            made with other settings, of other problems or by an older version, or a line that is
            not a result.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], problems: Iterable[Problem] = ()
    ) -> None:
        self.folder = folder
        path = folder / "results.jsonl"
        settings = {"format": FORMAT, **settings}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = path.open("a", encoding="utf-8")
            try:
                _lock(self._file, folder)
                self.rows = _opened(folder, settings, problems)
            except BaseException:
                self.close()
                raise
        except OSError as error:
            raise SteerError(
                f"cannot write results to {str(folder)!r}: {error.strerror}; choose another --out"
            ) from error

    def add(self, row: Row) -> None:
        """Appends one line and hands it to the system at once.

        Raises:
            SteerError: the system does not take it: the disk is full, say.
        """
        line = json.dumps(row.to_dict(), ensure_ascii=False, allow_nan=False) + "\n"
        try:
            with held():  # a whole line, and counted
                self._file.write(line)
                self._file.flush()
                self.rows[row.key] = row
        except OSError as error:
            raise SteerError(
                f"cannot write to {self._file.name!r}: {error.strerror}; {len(self.rows)} answers "
                "are kept, and the same command goes on once there is room"
            ) from error

    def close(self) -> None:
        with suppress(OSError):  # what could not be written has been said
            self._file.close()


def _lock(file: TextIO, folder: Path) -> None:
    """Keeps others from the folder until ``file`` is closed, also by the end of this process."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock

        flock(file, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        raise SteerError(
            f"another `steer eval` is writing to {str(folder)!r}: wait for its end, or choose "
            "another --out"
        ) from None
    except (ImportError, OSError):
        pass  # a system, or a file system, without such locks


def _opened(
    folder: Path, settings: Mapping[str, Any], problems: Iterable[Problem]
) -> dict[Key, Row]:
    """The answers in ``folder``, after both its settings and its problems were brought up to date.

    Raises:
        SteerError: as :class:`ResultsFolder`.
    """
    path = folder / "results.jsonl"
    if (folder / "settings.json").exists():
        settings = merged(str(folder), read_settings(folder), settings)
    asked = _merged_problems(folder, problems)
    rows, whole = read_rows(path)
    if whole < path.stat().st_size:
        # The last line was being written when the run was killed; it is answered again.
        os.truncate(path, whole)
    write_whole(folder / "settings.json", json.dumps(settings, indent=1) + "\n")
    lines = [json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in asked.values()]
    write_whole(folder / "problems.jsonl", "".join(lines))
    return {row.key: row for row in rows}


def read_settings(folder: Path) -> dict[str, Any]:
    """What the answers in ``folder`` were made with.

    Raises:
        SteerError: there are none, or they were written by an older version.
    """
    path = folder / "settings.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or not isinstance(settings["routers"], dict):
            raise TypeError("not an evaluation's")
    except OSError as error:
        raise SteerError(
            f"{str(folder)!r} holds no results of `steer eval`: {error.strerror} (settings.json)"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SteerError(
            f"{str(path)!r} is not the settings of an evaluation: "
            "run `steer eval` with another --out"
        ) from error
    if settings.get("format", 1) != FORMAT:
        raise SteerError(
            f"{str(folder)!r} holds results of format {settings.get('format', 1)}, this version of "
            f"steer reads format {FORMAT}: run `steer eval` again with another --out"
        )
    return settings


def merged(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of both together; where the workers differ, a list of their numbers.

    Raises:
        SteerError: answers made with the two do not belong into one table.
    """
    # Through JSON and back, so that tuples and lists are the same.
    new = json.loads(json.dumps(new))
    changed = first_difference(old, new, ignore=("workers",))
    if changed:
        raise SteerError(
            f"{name!r} holds results made with other settings ({changed}): "
            "choose another --out, or go back to those settings"
        )
    both = {**new, **{key: {**old.get(key, {}), **new.get(key, {})} for key in _MERGED}}
    if old.get("workers") != new.get("workers"):
        # No answer depends on them, but seconds do.
        used = [kept["workers"] for kept in (old, new) if "workers" in kept]
        both["workers"] = sorted({n for u in used for n in (u if isinstance(u, list) else [u])})
    return both


def first_difference(
    old: Mapping[str, Any], new: Mapping[str, Any], ignore: Sequence[str] = ()
) -> str:
    """The first setting in which the two differ, in words; empty where there is none."""
    for key in sorted((old.keys() | new.keys()) - {*_FREE, *ignore}):
        if old.get(key) != new.get(key):
            return f"{key} was {old.get(key)}, now {new.get(key)}"
    for name, router in new["routers"].items():
        if old["routers"].get(name, router) != router:
            return f"router {name!r} was another one"
    return ""


def read_rows(path: Path) -> tuple[list[Row], int]:
    """All answers in a file, and how many bytes of it are whole lines.

    Raises:
        SteerError: a whole line that is not a result.
    """
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    return _read(path, data[:whole], _row), whole


def read_problems(folder: Path) -> dict[tuple[str, str], Problem]:
    """What was asked, by domain and problem; empty where that was not kept."""
    path = folder / "problems.jsonl"
    data = path.read_bytes() if path.exists() else b""
    found = _read(path, data, lambda record: Problem(**record))
    return {(problem.domain, problem.problem): problem for problem in found}


def _row(record: dict[str, Any]) -> Row:
    """A row whose fields are what a report reckons with; TypeError where one is not."""
    row = Row.from_dict(record)
    costs = (row.flops_paper, row.flops_processed, row.bytes_read, row.seconds, row.hand_overs)
    texts = (row.router, row.domain, row.problem, row.stop_reason, row.error)
    if not (
        type(row.correct) is bool
        and type(row.seed) is int
        and type(row.difficulty) in (int, NoneType)
        and all(type(text) is str for text in texts)
        and all(type(cost) in (int, float) and cost >= 0 for cost in costs)
        and all(
            step.writer in WRITERS
            and type(step.text) is str
            and type(step.tokens) is int
            and type(step.score) in _FIGURE
            and type(step.before) in _FIGURE
            and type(step.posterior) in _FIGURE
            for step in row.trace
        )
    ):
        raise TypeError("not an answer")
    return row


def _read(path: Path, data: bytes, make: Callable[[dict[str, Any]], T]) -> list[T]:
    found = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line:
            continue
        try:
            found.append(make(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SteerError(
                f"line {number} of {str(path)!r} is not a result: "
                "remove it, or run `steer eval` with another --out"
            ) from error
    return found


def _merged_problems(folder: Path, problems: Iterable[Problem]) -> dict[tuple[str, str], Problem]:
    asked = read_problems(folder)
    for problem in problems:
        old = asked.setdefault((problem.domain, problem.problem), problem)
        if old != problem:
            raise SteerError(
                f"{str(folder)!r} holds answers to another problem {problem.domain}:"
                f"{problem.problem} ({changed_problem(old, problem)}): choose another --out"
            )
    return asked


def changed_problem(old: Problem, new: Problem) -> str:
    """The first field in which the two differ, in words."""
    for field in fields(Problem):
        was, now = getattr(old, field.name), getattr(new, field.name)
        if was != now:
            return f"its {field.name} was {_short(was)}, now {_short(now)}"
    return ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def digest(settings: Mapping[str, Any]) -> str:
    """Eight characters that name settings other than the routers and the workers."""
    rest = {key: value for key, value in settings.items() if key not in (*_FREE, "workers")}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:8]
