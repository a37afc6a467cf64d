"""Documents of ours, read by a schema.

What comes out is what the code behind reckons with. A document is JSON that this package wrote, or
somebody else did. A schema is a :data:`Check`, a function that returns the value it was given or
raises :class:`Fault`; checks are put together from those below. Nothing else is raised for whatever
stands in a file.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import SteerError
from .files import decoded, read_text
from .text import short

T = TypeVar("T")
Check = Callable[[Any], Any]

MOST = 2**53  # whole numbers beyond it are no floats
LARGEST = 1e30  # of a figure; sums and squares of such are floats still
_DIGITS = 4000  # of a whole number; Python itself reads 4,300


class Fault(ValueError):
    """What is wrong in a document, and where."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.place: list[str] = []

    def within(self, place: str | int) -> Fault:
        self.place.insert(0, f"[{place}]" if isinstance(place, int) else f".{short(place)[1:-1]}")
        return self

    def __str__(self) -> str:
        where = "".join(self.place).lstrip(".")
        return f"{where}: {self.what}" if where else self.what


def parse(text: str, *, infinite: bool = False) -> Any:
    """Read JSON as its standard has it.

    Numbers are finite, and each key of an object occurs once.

    Args:
        text: of the document.
        infinite: NaN, Infinity and -Infinity are numbers too, as Python writes them.

    Raises:
        Fault: it is none.
    """
    if not text.strip():
        raise Fault("it is empty")
    try:
        return json.loads(
            text,
            parse_int=_int,
            parse_float=_float,
            parse_constant=float if infinite else _constant,
            object_pairs_hook=_object,
        )
    except Fault:
        raise
    except RecursionError:
        raise Fault("it is nested too deeply") from None
    except ValueError as error:
        raise Fault(f"{type(error).__name__}: {error}") from error


def _int(text: str) -> int:
    if len(text) > _DIGITS:
        raise Fault(f"a number of {len(text):,} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Fault(f"{text[:20]} is larger than any number")
    return value


def _constant(text: str) -> None:
    raise Fault(f"{text} is no number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise Fault(f"{short(twice)} is there twice")
    return found


def anything(value: Any) -> Any:
    """Whatever JSON holds, for the reader of a file."""
    return value


def text(value: Any) -> str:
    """A text without half of a surrogate pair."""
    if not isinstance(value, str):
        raise Fault(f"must be a text, got {short(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Fault("holds half a character (a lone surrogate)") from None
    return value


def boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise Fault(f"must be true or false, got {short(value)}")
    return value


def whole(low: int = 0, high: int = MOST) -> Check:
    """A whole number in [low, high]."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            limits = f"from {low:,} on" if high == MOST else f"in [{low:,}, {high:,}]"
            raise Fault(f"must be a whole number {limits}, got {short(value)}")
        return value

    return check


def number(low: float = -LARGEST, high: float = LARGEST) -> Check:
    """A finite number in [low, high]."""

    def check(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise Fault(f"must be a number in [{low:g}, {high:g}], got {short(value)}")
        return value

    return check


def one_of(words: Collection[str]) -> Check:
    """One of some words."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise Fault(f"must be one of {', '.join(map(repr, words))}, got {short(value)}")
        return value

    return check


def optional(check: Check) -> Check:
    """What ``check`` takes, or null."""
    return lambda value: None if value is None else check(value)


def listed(check: Check, least: int = 0) -> Check:
    """A list of ``least`` or more that ``check`` takes."""

    def checked(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise Fault(f"must be a list, got {short(value)}")
        if len(value) < least:
            raise Fault(f"must be a list of {least} or more, got {len(value)}")
        found = []
        for i, each in enumerate(value):
            try:
                found.append(check(each))
            except Fault as fault:
                raise fault.within(i) from None
        return found

    return checked


def mapped(check: Check, key: Check = text) -> Check:
    """An object, its keys by ``key``, its values by ``check``."""

    def checked(value: Any) -> dict[Any, Any]:
        found = {}
        for name, each in _members(value):
            try:
                found[key(name)] = check(each)
            except Fault as fault:
                raise fault.within(name) from None
        return found

    return checked


def record(
    needed: Mapping[str, Check], more: Mapping[str, Check] | None = None, *, others: str = "refused"
) -> Check:
    """An object with these members.

    Args:
        needed: by name, those that must be there.
        more: those that may.
        others: what to do with any other member: it is "refused", "dropped" or "kept".
    """
    known = {**needed, **(more or {})}

    def checked(value: Any) -> dict[str, Any]:
        found = {}
        for name, each in _members(value):
            check = known.get(name)
            if check is None:
                if others == "refused":
                    raise Fault(f"has {short(name)}, which does not belong there")
                if others == "dropped":
                    continue
                check = anything
            try:
                found[name] = check(each)
            except Fault as fault:
                raise fault.within(name) from None
        for name in needed:
            if name not in found:
                raise Fault(f"has no {name!r}")
        return found

    return checked


def versioned(expected: int, check: Check, kind: str = "") -> Check:
    """An object of this version, and of this ``kind``.

    If one is given; ``check`` takes the rest.
    """

    def checked(value: Any) -> Any:
        found = dict(_members(value))
        version = found.pop("version", None)
        known = type(version) is int and version == expected
        if kind and not (found.pop("kind", None) == kind and known):
            raise Fault(f"not version {expected} of {kind}")
        if not known:
            raise Fault(f"version {short(version)}, expected {expected}")
        return check(found)

    return checked


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise Fault(f"must be an object, got {short(value)}")
    return iter(value.items())


def read(path: str | Path, what: str, make: Callable[[Any], T], wrong: str, way: str) -> T:
    """What ``make`` makes of the JSON in a file.

    Args:
        path: the file.
        what: it is to be, as in "trace"; for messages.
        make: a check, or what is built behind one.
        wrong: what is said of a file that is something else, as in "is not a trace".
        way: the way out, for messages.

    Raises:
        SteerError: it cannot be read, or is not that; the message names file and place.
    """
    data = read_text(path, what)
    try:
        return make(parse(data))
    except Fault as fault:
        raise SteerError(f"{str(path)!r} {wrong} ({fault}): {way}") from fault


def read_lines(
    path: Path, data: bytes, make: Callable[[Any], T], wrong: str, way: str
) -> list[tuple[int, T]]:
    """Make something of each line of JSON lines.

    ``make`` makes it, with the line's number.

    Args:
        path, make, wrong, way: as for :func:`read`, of a line.
        data: of the file.

    Raises:
        SteerError: a line that is not that; the message names it.
    """
    found = []
    for i, line in enumerate(decoded(data, path).split("\n"), 1):
        if line.strip():
            try:
                found.append((i, make(parse(line))))
            except Fault as fault:
                raise SteerError(f"line {i} of {str(path)!r} {wrong}: {way} ({fault})") from fault
    return found
