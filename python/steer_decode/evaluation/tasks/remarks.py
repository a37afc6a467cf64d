"""What a checker has to say beside right or wrong, to whoever listens."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_heard: ContextVar[list[str] | None] = ContextVar("heard", default=None)


def remark(text: str) -> None:
    """Says ``text`` to the nearest :func:`remarks` of this thread, or to the log where none is."""
    heard = _heard.get()
    if heard is None:
        logging.getLogger("steer_decode").warning(text)
    elif text not in heard:
        heard.append(text)


@contextmanager
def remarks() -> Iterator[list[str]]:
    """The remarks that are made while it is open, each once."""
    heard: list[str] = []
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)
