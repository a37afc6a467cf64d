"""What a caller gives, refused by name.

It is read once, at the door.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, TypeVar

from ..errors import SteerError

T = TypeVar("T")


def whole(name: str, value: Any) -> int:
    """``value`` as an int.

    Integers of numpy and torch are taken too.

    Raises:
        SteerError: it is no integer.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise SteerError(f"{name} must be a whole number, got {value!r}") from None


def number(name: str, value: Any) -> float:
    """``value`` as a float; numbers of numpy are taken too.

    Raises:
        SteerError: it is no number, or larger than any float.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise SteerError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise SteerError(f"{name} must be a number below 1e308, got {str(value)[:9]}...") from None


def threshold(name: str, value: Any) -> float:
    """``value`` as a float to compare with.

    It may be infinite.

    Raises:
        SteerError: it is no number, or NaN, with which nothing compares.
    """
    limit = number(name, value)
    if limit != limit:
        raise SteerError(f"{name} must be a number, got {value}")
    return limit


def fraction(name: str, value: Any) -> float:
    """``value`` as a float in [0, 1].

    Raises:
        SteerError: it is no number, or lies outside.
    """
    part = number(name, value)
    if not 0 <= part <= 1:
        raise SteerError(f"{name} must lie in [0, 1], got {value}")
    return part


def one_of(name: str, value: Any, words: Iterable[str]) -> str:
    """``value``, which is one of ``words``.

    Raises:
        SteerError: it is not.
    """
    known = list(words)
    if not isinstance(value, str) or value not in known:
        raise SteerError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return value


def loaded(name: str, value: Any, kind: type[T], load: Callable[[str], T]) -> tuple[T, str]:
    """``value``, or what ``load`` makes of a file.

    With it the path of that file, or "".

    Raises:
        SteerError: it is neither a path nor of this ``kind``; or whatever ``load`` raises.
    """
    if isinstance(value, str | os.PathLike):
        path = os.fsdecode(value)
        return load(path), path
    if not isinstance(value, kind):
        raise SteerError(f"{name} must be a path or a {kind.__name__}, got {value!r}")
    return value, ""


def listed(prompts: Iterable[Any]) -> list[Any]:
    """Prompts, or the messages of one, as a list.

    A text or one message alone is no such thing.

    Raises:
        SteerError: it is none of these.
    """
    if (
        isinstance(prompts, str | bytes | Mapping)
        or hasattr(prompts, "ndim")  # an array, whose rows may be padded
        or not isinstance(prompts, Iterable)
    ):
        raise SteerError(
            f"prompts must be a list of texts or of messages, got {type(prompts).__name__}"
        )
    return list(prompts)
