"""What a client is shown: text that stays.

It ends before a stop text.
"""

from __future__ import annotations

from ..core.events import Event, StepClosed, TextDelta
from ..core.trace import Trace
from ..decode.staying import Staying
from .stops import Stops
from .tickets import EngineRequest, Item, Token


class Showing:
    """What is told of an answer's events.

    Args:
        request: whose stop texts end it.
        trace: of the answer, as it grows.
    """

    def __init__(self, request: EngineRequest, trace: Trace) -> None:
        self._staying = Staying(request.policy, trace)
        self._stops = Stops(request.stops)
        self._steps = request.steps
        self._held: list[TextDelta] = []  # whose text may begin a stop text
        self._cut = 0  # characters of the first of them that have been shown
        self.stopped = False
        self.tokens = 0

    def show(self, event: Event) -> list[Item]:
        """The items that ``event`` brings.

        There are none once a stop text has ended the answer.
        """
        items: list[Item] = []
        for delta in self._staying.show(event):
            self.tokens += 1
            items += self._token(delta)
            if self.stopped:
                return items
        if self._steps and isinstance(event, StepClosed):
            items.append(event.step)
        return items

    def finish(self) -> list[Item]:
        """What was held although no stop text came."""
        items: list[Item] = []
        for delta in self._held:
            items.append(self._part(delta, len(delta.text)))
        self._held = []
        return items

    def _token(self, delta: TextDelta) -> list[Item]:
        self._held.append(delta)
        room, self.stopped = self._stops.push(delta.text)
        items: list[Item] = []
        while self._held:
            first = self._held[0]
            left = len(first.text) - self._cut
            if left > room or (self.stopped and not room and left):
                break
            room -= left
            items.append(self._part(first, len(first.text)))
            self._held.pop(0)
        if room and self._held:
            items.append(self._part(self._held[0], self._cut + room))
        return items

    def _part(self, delta: TextDelta, end: int) -> Token:
        """The text of a token up to ``end``; the token itself counts with its first piece."""
        text, first = delta.text[self._cut : end], self._cut == 0
        self._cut = end if end < len(delta.text) else 0
        known = delta.log_probs if first else None
        token = delta.token_id if first else -1
        return Token(text, token, delta.writer, delta.index, known, delta.text)
