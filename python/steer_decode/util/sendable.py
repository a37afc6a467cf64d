"""Errors that cross from one process to another."""

from __future__ import annotations

import pickle
from typing import TypeVar

from ..errors import SteerError

_Error = TypeVar("_Error", bound=BaseException)


def sendable(error: _Error) -> _Error | SteerError | RuntimeError:
    """``error``, or one that says the same.

    That is where it cannot be pickled. Its cause and its traceback stay behind.
    """
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        kind = SteerError if isinstance(error, SteerError) else RuntimeError
        text = str(error) if kind is SteerError else f"{type(error).__name__}: {error}"
        return kind(text)
