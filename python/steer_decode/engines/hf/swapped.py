"""Something of ours in a model while passes need it."""

from __future__ import annotations

import threading
from collections.abc import Callable

_lock = threading.Lock()
# By the id of an owner, which its passes keep alive: how many there are, and what is ours there.
_passes: dict[int, int] = {}
_there: dict[int, list[Swapped]] = {}


class Swapped:
    """What is ours in a model, for some passes.

    The first pass puts it there, and the last one that ends takes it out, in whatever threads they
    run. Passes that put different things into one owner are counted together, so that none of it
    stays behind.

    Args:
        owner: what is changed: the model, or its config.
        put: puts ours in place.
        restore: puts back what was there.
    """

    def __init__(self, owner: object, put: Callable[[], None], restore: Callable[[], None]) -> None:
        self._owner, self._key = owner, id(owner)
        self._put, self._restore = put, restore

    def __enter__(self) -> None:
        key = self._key
        with _lock:
            others = _passes.get(key, 0)
            _passes[key] = others + 1
            if not others:
                _there[key] = [self]
            elif self in _there[key]:
                return
            else:
                _there[key].append(self)
            self._put()

    def __exit__(self, *_: object) -> None:
        key = self._key
        with _lock:
            others = _passes[key] - 1
            if others:
                _passes[key] = others
                return
            del _passes[key]
            for swapped in _there.pop(key):
                swapped._restore()
