"""A request on its way: question and answer.

The engine is given requests and tells items, which may cross to another process. A ticket is the
event loop's: items are pushed to it, and whoever waits for it takes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..core.events import RoutedOutput
from ..core.log_probs import LogProbs
from ..core.trace import Step
from ..core.transcript import Writer
from ..policies import Policy


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


class Admitted(NamedTuple):
    """An answer has been admitted.

    Fields:
        reused: tokens of the prompt that each model had read before.
        at: on the clock of :func:`time.monotonic`.
    """

    reused: dict[Writer, int]
    at: float


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


class EngineRequest(NamedTuple):
    """What the engine is told of a ticket.

    Fields:
        ids: the prompt.
        policy: who writes.
        options: of :meth:`Pool.add`, the rest of them.
        stops: texts that end the answer.
        steps: steps are told of, those that were taken back as well.
        asked, deadline: on the clock of :func:`time.monotonic`, which all processes share.
    """

    ids: list[int]
    policy: Policy
    options: dict[str, Any]
    stops: Sequence[str] = ()
    steps: bool = False
    asked: float = 0.0
    deadline: float = float("inf")


@dataclass(eq=False)
class Ticket:
    """One answer that is asked for.

    Args:
        request: what is asked.
        wake: is set when an item has come; the tickets of one request have it in common.
        number: by which the worker and its engine know it.
        begun: when it was admitted; 0 before.
        gone: nobody waits for it.
    """

    request: EngineRequest
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    number: int = -1
    begun: float = 0.0
    gone: bool = False
    items: list[Item] = field(default_factory=list)

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
