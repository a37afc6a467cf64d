"""A request on its way: question and answer.

A ticket belongs to two threads. The worker pushes items to it; whoever waits for it takes them in
the event loop. What is sent is only text that stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..core.events import Event, RoutedOutput, StepClosed, TextDelta
from ..core.log_probs import LogProbs
from ..core.trace import Step, Trace
from ..core.transcript import Writer
from ..decode.staying import Staying
from ..policies import Policy
from .stops import Stops


class Token(NamedTuple):
    """A token that stays.

    Fields:
        text: of it, as far as no stop text cuts it; in parts, where it may begin one.
        token_id: -1 with any part but the first.
        writer, step: who wrote it, in which step.
        log_probs: likewise with the first part alone.
        whole: all of its text.
    """

    text: str
    token_id: int
    writer: Writer
    step: int
    log_probs: LogProbs | None
    whole: str


class Ended(NamedTuple):
    """An answer has ended.

    Fields:
        reason: as :attr:`Trace.stop_reason`; "stop" where a stop text ended it.
        output: the answer, with the end that no client is shown where a stop text cut it.
        reused: tokens of the prompt that each model had read before.
        tokens: of the answer, to the one that completes the stop text.
    """

    reason: str
    output: RoutedOutput
    reused: dict[Writer, int]
    tokens: int


class Broke(NamedTuple):
    """An answer has failed, or cannot be gone on with."""

    error: Exception


Item = Token | Step | Ended | Broke


@dataclass(eq=False)
class Ticket:
    """One answer that is asked for.

    Args:
        ids: the prompt.
        policy: who writes.
        options: of :meth:`Pool.add`, the rest of them.
        stops: texts that end the answer.
        steps: steps are told of, those that were taken back as well.
        deadline: on the clock of :func:`time.monotonic`.
        told: something of the answer has been told; of the worker.
        wake: is set when an item has come; the tickets of one request have it in common.
    """

    ids: list[int]
    policy: Policy
    options: dict[str, Any]
    stops: Sequence[str] = ()
    steps: bool = False
    deadline: float = float("inf")
    asked: float = field(default_factory=time.monotonic)
    begun: float = 0.0  # when it was admitted; 0 before
    key: int | None = None  # of the pool
    gone: bool = False  # nobody waits for it
    told: bool = False
    items: list[Item] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def push(self, item: Item) -> None:
        """Bring an item; called in the event loop."""
        self.items.append(item)
        self.wake.set()


async def arrivals(
    tickets: Sequence[Ticket], quiet: float | None = None
) -> AsyncIterator[tuple[int, list[Item]]]:
    """The items of one request's tickets, as they come.

    Args:
        tickets: which have their events in common.
        quiet: seconds after which a ticket is named without items where none has any.

    Yields:
        (index of the ticket, what has come for it since).
    """
    wake, loop = tickets[0].wake, asyncio.get_running_loop()
    going = dict(enumerate(tickets))
    while going:
        wake.clear()
        arrived = [(index, ticket) for index, ticket in going.items() if ticket.items]
        for index, ticket in arrived:
            items, ticket.items = ticket.items, []
            if isinstance(items[-1], Ended | Broke):
                del going[index]
            yield index, items
        if not arrived:
            timer = loop.call_later(quiet, wake.set) if quiet else None
            await wake.wait()
            if timer:
                timer.cancel()
            if not any(ticket.items for ticket in going.values()):
                yield next(iter(going)), []


class Showing:
    """What a ticket is told of its answer's events.

    Args:
        ticket: whose stop texts end it.
        trace: of the answer, as it grows.
    """

    def __init__(self, ticket: Ticket, trace: Trace) -> None:
        self._staying = Staying(ticket.policy, trace)
        self._stops = Stops(ticket.stops)
        self._steps = ticket.steps
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
