"""Checkers: whether a text gives the reference answer.

They are known by name, or are a user's own function.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ...errors import SteerError
from .final import final_answer, reference_answer
from .formulas import Undecided, formulas
from .reading import Equation, Formula, Number, Words, read, words
from .remarks import remark
from .verdict import agrees

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
    """Whether the final answer equals the reference as text.

    Case and white space do not count.
    """
    return _plain(final_answer(text)) == _plain(reference_answer(answer))


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()


def math_verify(text: str, answer: str) -> bool:
    """Whether the final answer says what the reference does.

    Numbers are compared as numbers, lists by their parts, words as words, formulas by
    math-verify. One that takes it longer than some seconds is wrong, and
    :func:`~steer_decode.evaluation.tasks.remarks.remark` says so.
    """
    try:
        return agrees(reference_answer(answer), final_answer(text), formulas)
    except Undecided as error:
        remark(str(error))
        return False


def reference(answer: str) -> list[Any]:
    """Read a reference answer.

    An empty list where it says nothing.
    """
    value = read(reference_answer(answer))
    if isinstance(value, Formula | Equation):
        latex = value.latex
        found = formulas.read(latex)
        if found is not None:
            return [found]
        # Letters and signs that are no formula, such as "C++", are compared as they stand.
        return [] if "\\" in latex else [words(answer).text]
    if isinstance(value, Number):
        unit = f" {value.unit}" if value.unit else ""
        return [f"{value.exact.value}{unit}"]
    if isinstance(value, Words):
        return [value.text] if value.text else []
    return [] if value is None else [value]
