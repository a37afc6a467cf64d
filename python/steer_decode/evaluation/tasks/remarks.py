"""What a checker says beside right or wrong.

Whoever listens hears it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_heard: ContextVar[list[str] | None] = ContextVar("heard", default=None)


def remark(text: str) -> None:
    """Say ``text`` to the nearest :func:`remarks` of this thread.

    To the log where there is none.
    """
    heard = _heard.get()
    if heard is None:
        logging.getLogger("steer_decode").warning(text)
    elif text not in heard:
        heard.append(text)


@contextmanager
def remarks() -> Iterator[list[str]]:
    """The remarks made while it is open, each once."""
    heard: list[str] = []
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)
