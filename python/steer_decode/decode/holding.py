"""Keeps a draft from the reader until it is known whether it stays.

A policy that may answer "restart" judges the whole answer. What the reader has been shown cannot be
taken off the screen, so the events of the draft wait, and come in the order in which they happened.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from ..core.events import Event

_Ask = TypeVar("_Ask")
_Reply = TypeVar("_Reply")


def held_back(
    running: Generator[Event | _Ask, _Reply, None], restarted: Callable[[], bool]
) -> Generator[Any, Any, None]:
    """``running``, but its events come at its end, or when the answer begins anew.

    What it asks goes out at once, and the reply goes in.

    Args:
        running: a conversation.
        restarted: whether the answer has begun anew; that happens once.
    """
    held: list[Event] = []
    reply: Any = None
    while True:
        try:
            item = running.send(reply)
        except StopIteration:
            yield from held
            return
        reply = None
        if not isinstance(item, Event):
            reply = yield item
            continue
        held.append(item)
        if restarted():
            yield from held
            yield from running
            return
