"""An engine that is asked until it has replied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from steer_decode.core.requests import Question
from steer_decode.engines.base import Engine, Later, Replies


class Patient:
    """``engine``, whose replies are waited for; what is no request goes to it as it is."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def write(self, rows: Sequence[int], looking: Sequence[int] = ()) -> Replies[Any]:
        def ask(some: list[int]) -> Replies[Any]:
            writing = [row for row in some if row in rows]
            return self._engine.write(writing, [row for row in some if row in looking])

        return _settled(ask, [*rows, *looking])

    def look(self, rows: Sequence[int]) -> Replies[Any]:
        return _settled(self._engine.look, rows)

    def read(self, rows: Sequence[int], counts: Sequence[int]) -> Replies[Any]:
        of = dict(zip(rows, counts, strict=True))
        return _settled(lambda some: self._engine.read(some, [of[row] for row in some]), rows)

    def verify(self, rows: Sequence[int]) -> Replies[Any]:
        return _settled(self._engine.verify, rows)

    def ask(self, rows: Sequence[int], question: Question) -> Replies[Any]:
        return _settled(lambda some: self._engine.ask(some, question), rows)


def _settled(ask: Callable[[list[int]], Replies[Any]], rows: Sequence[int]) -> Replies[Any]:
    found: dict[int, Any] = {}
    while left := [row for row in rows if row not in found]:
        replies = dict(zip(left, ask(left), strict=True))
        late = [reply for reply in replies.values() if isinstance(reply, Later)]
        found |= {row: reply for row, reply in replies.items() if not isinstance(reply, Later)}
        if len(late) == len(left):
            late[0].wait(1.0)
    return [found[row] for row in rows]
