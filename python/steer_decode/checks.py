"""What a caller gives: read once, at the door, and refused by name."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from .errors import SteerError


def whole(name: str, value: Any) -> int:
    """``value`` as an int; integers of numpy and torch are taken too.

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


def listed(prompts: Iterable[Any]) -> list[Any]:
    """Prompts, or the messages of one, as a list; a text or one message alone is no such thing.

    Raises:
        SteerError: it is none of these.
    """
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
        raise SteerError(
            f"prompts must be a list of texts or of messages, got {type(prompts).__name__}"
        )
    return list(prompts)
