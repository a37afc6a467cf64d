"""Results of an evaluation, as lines that survive interruptions."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from ..errors import SteerError
from ..util import documents
from ..util.files import PATH_ERRORS, lock, read_bytes, reason, write_whole
from ..util.interruption import held
from ..util.text import dump, short
from .row_file import BY_ROUTER, SETTINGS, problem_of, row_of
from .rows import Asked, Key, ResultRow

FORMAT = 2
_NO_RESULT = "is not a result"
_WAY = "remove it, or run `steer eval` with another --out"
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
        self, folder: Path, settings: Mapping[str, Any], problems: Iterable[Asked] = ()
    ) -> None:
        self.folder = folder
        path = folder / "results.jsonl"
        settings = {"format": FORMAT, **settings}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = path.open("a", encoding="utf-8")
            try:
                lock(
                    self._file,
                    f"another `steer eval` is writing to {str(folder)!r}: wait for its end, or "
                    "choose another --out",
                )
                self.rows = _opened(folder, settings, problems)
            except BaseException:
                self.close()
                raise
        except PATH_ERRORS as error:
            if isinstance(error, SteerError):
                raise
            raise SteerError(
                f"cannot write results to {str(folder)!r}: {reason(error)}; choose another --out"
            ) from error

    def add(self, row: ResultRow) -> None:
        """Append one line and hand it to the system.

        Raises:
            SteerError: the system does not take it: the disk is full, say.
        """
        line = dump(row.to_dict()) + "\n"
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


def _opened(
    folder: Path, settings: Mapping[str, Any], problems: Iterable[Asked]
) -> dict[Key, ResultRow]:
    """The answers in ``folder``, after both its settings and its problems were brought up to date.

    Raises:
        SteerError: as :class:`ResultsFolder`.
    """
    path = folder / "results.jsonl"
    rows, whole = read_rows(path)
    for name in ("settings.json", "problems.jsonl"):
        if rows and not (folder / name).exists():
            raise SteerError(
                f"{str(folder)!r} holds {len(rows)} answers, but its {name} is gone, so nobody "
                "can tell what they belong to: put it back, or choose another --out"
            )
    if (folder / "settings.json").exists():
        settings = merged(str(folder), read_settings(folder), settings)
    check_routers(path, rows, settings)
    asked = _merged_problems(folder, problems)
    if whole < path.stat().st_size:
        # The last line was being written when the run was killed; it is answered again.
        os.truncate(path, whole)
    write_whole(folder / "settings.json", dump(settings, indent=1) + "\n")
    lines = [dump(asdict(p)) + "\n" for p in asked.values()]
    write_whole(folder / "problems.jsonl", "".join(lines))
    return {row.key: row for row in rows}


def read_settings(folder: Path) -> dict[str, Any]:
    """What the answers in ``folder`` were made with.

    Raises:
        SteerError: there are none, or they were written by an older version.
    """
    path = folder / "settings.json"
    if not path.exists():
        raise SteerError(
            f"{str(folder)!r} holds no results of `steer eval`: there is no settings.json"
        )
    way = "run `steer eval` with another --out"
    return documents.read(
        path,
        "settings",
        lambda value: _settings(value, path),
        "is not the settings of an evaluation",
        way,
    )


def _settings(value: Any, path: Path) -> dict[str, Any]:
    record = documents.record({"pair": documents.text, "routers": BY_ROUTER}, others="kept")(value)
    found = record.get("format", 1)
    if found != FORMAT:
        raise SteerError(
            f"{str(path.parent)!r} holds results of format {short(found)}, this version of "
            f"steer reads format {FORMAT}: run `steer eval` again with another --out"
        )
    return dict(SETTINGS(record))


def merged(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of two runs together.

    Where the workers differ, a list of their numbers.

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
    """The first setting that differs, in words, or nothing."""
    for key in sorted((old.keys() | new.keys()) - {*_FREE, *ignore}):
        if old.get(key) != new.get(key):
            return f"{key} was {_plain(old.get(key))}, now {_plain(new.get(key))}"
    for name, router in new["routers"].items():
        if old["routers"].get(name, router) != router:
            return f"router {name!r} was another one"
    return ""


def read_results(folder: Path) -> tuple[dict[str, Any], list[ResultRow]]:
    """Read the settings and the answers in ``folder``.

    A line that is still being written is left out.

    Raises:
        SteerError: as :func:`read_settings` and :func:`read_rows`; or an answer of a router that
            the settings do not know.
    """
    settings = read_settings(folder)
    path = folder / "results.jsonl"
    rows, _ = read_rows(path)
    check_routers(path, rows, settings)
    return settings, rows


def check_routers(path: Path, rows: Iterable[ResultRow], settings: Mapping[str, Any]) -> None:
    """Check that every row is of a known router.

    Raises:
        SteerError: a row is of a router that is not among the settings.
    """
    stray = next((row for row in rows if row.router not in settings["routers"]), None)
    if stray is not None:
        raise SteerError(
            f"{str(path)!r} holds answers of router {short(stray.router)}, of which the "
            "settings.json beside it says nothing: remove them, or choose another folder"
        )


def read_rows(path: Path) -> tuple[list[ResultRow], int]:
    """Read all answers in a file.

    Returns also how many bytes of it are whole lines.

    Raises:
        SteerError: a whole line that is not a result, or one that is there twice.
    """
    data = read_bytes(path, "results") if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    found = documents.read_lines(path, data[:whole], row_of, _NO_RESULT, _WAY)
    _once(path, [(number, row.key) for number, row in found])
    return [row for _, row in found], whole


def read_problems(folder: Path) -> dict[tuple[str, str], Asked]:
    """Read what was asked, by domain and problem.

    It is empty where that was not kept.

    Raises:
        SteerError: a line that is no problem, or one that is there twice.
    """
    path = folder / "problems.jsonl"
    data = read_bytes(path, "problems") if path.exists() else b""
    found = documents.read_lines(path, data, problem_of, "is not a problem", _WAY)
    _once(path, [(number, (problem.domain, problem.problem)) for number, problem in found])
    return {(problem.domain, problem.problem): problem for _, problem in found}


def _once(path: Path, keys: Iterable[tuple[int, tuple[Any, ...]]]) -> None:
    first: dict[tuple[Any, ...], int] = {}
    for number, key in keys:
        if first.setdefault(key, number) != number:
            name = short(":".join(map(str, key)))
            raise SteerError(
                f"line {number} of {str(path)!r} is a second one of {name}, after line "
                f"{first[key]}: {_WAY}"
            )


def _merged_problems(folder: Path, problems: Iterable[Asked]) -> dict[tuple[str, str], Asked]:
    asked = read_problems(folder)
    for problem in problems:
        old = asked.setdefault((problem.domain, problem.problem), problem)
        if old != problem:
            raise SteerError(
                f"{str(folder)!r} holds answers to another problem {problem.domain}:"
                f"{problem.problem} ({old.change(problem)}): choose another --out"
            )
    return asked


def _plain(value: object) -> str:
    return str(value) if isinstance(value, int | float | None) else short(value)


def digest(settings: Mapping[str, Any]) -> str:
    """Eight characters that name settings without routers and workers."""
    rest = {key: value for key, value in settings.items() if key not in (*_FREE, "workers")}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:8]
