"""Checkers: whether a text gives the reference answer. By name, or a user's own function."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..errors import SteerError
from .base import final_answer

Checker = Callable[[str, str], bool]
"""From the text of a model and the reference answer to right or wrong."""

CHECKERS = ("math-verify", "exact")


def load_checker(spec: str) -> Checker:
    """``math-verify``, ``exact``, or ``MODULE:FUNCTION`` (the current folder is searched too).

    Raises:
        SteerError: an unknown name, a package that is missing, a function that is not there.
    """
    if spec == "exact":
        return exact
    if spec == "math-verify":
        if find_spec("math_verify") is None:
            raise SteerError(
                "checker 'math-verify' needs the package: pip install steer-kernels[eval], "
                "or choose --checker exact or MODULE:FUNCTION"
            )
        return math_verify
    module, colon, name = spec.partition(":")
    if not colon or not module or not name:
        raise SteerError(
            f"unknown checker {spec!r}: choose from {', '.join(CHECKERS)}, or give MODULE:FUNCTION"
        )
    sys.path.insert(0, os.getcwd())
    try:
        function = getattr(import_module(module), name, None)
    except Exception as error:  # a user's module may fail in any way
        raise SteerError(
            f"checker {spec!r} cannot be imported ({type(error).__name__}: {error})"
        ) from error
    finally:
        sys.path.pop(0)
    if not callable(function):
        raise SteerError(f"checker {spec!r}: module {module!r} has no function {name!r}")
    return function


def exact(text: str, answer: str) -> bool:
    """The final answer of the text equals the reference; case and white space do not count."""
    return _plain(final_answer(text)) == _plain(answer)


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()


def math_verify(text: str, answer: str) -> bool:
    """The mathematics of ``text`` (``\\boxed{}`` first) equals that of the reference."""
    import math_verify as library

    seconds = _limit()
    found = library.parse(text, parsing_timeout=seconds)
    return bool(library.verify(reference(answer), found, timeout_seconds=seconds))


def reference(answer: str) -> list[Any]:
    """What math-verify reads in a reference answer; an empty list where it reads nothing."""
    import math_verify as library

    bare = not any(mark in answer for mark in ("$", "\\boxed", "\\(", "\\["))
    # A bare "x+1" counts as mathematics only between dollars.
    found = library.parse(f"${answer}$" if bare else answer, parsing_timeout=_limit())
    # Text that it cannot read comes back as text alone.
    return list(found) if any(not isinstance(part, str) for part in found) else []


def _limit() -> Any:
    """Seconds that math-verify may take; none outside a main thread, for they are alarms."""
    if threading.current_thread() is threading.main_thread():
        return 5
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it would warn at every call
    return None
