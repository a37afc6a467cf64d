"""The engine of a server: it alone touches the models.

Requests come in by a queue, and what is told of them goes out in batches. Between two iterations it
takes in what is new, lets go what nobody waits for, and admits what there is room for. Batches go
out at intervals, as each costs its reader a wake; the first of an answer and its end go at once.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import NamedTuple

from ..core.events import Done, Event, Failed, RoutedOutput
from ..core.transcript import Writer
from ..decode.pool import Pool
from ..decode.router import Router
from ..errors import OutOfMemoryError, SteerError
from .showing import Showing
from .tickets import Admitted, Broke, Ended, EngineRequest, Item

LOG = logging.getLogger("steer.serve")


class Cancelled(SteerError):
    """Nobody waits for the answer any more."""


class TimedOut(SteerError):
    """A request has taken longer than the server allows."""


class ToEngine(NamedTuple):
    """What the engine is asked.

    Fields:
        number: of a ticket.
        request: what is to be answered; None ends the answer.
    """

    number: int
    request: EngineRequest | None


class Batch(NamedTuple):
    """What the engine tells.

    Fields:
        items: each with the number of its ticket, one after the other.
        rows, queue: answers that run and that wait.
        held: bytes of keys and values.
        failed: why there will be no other batch; None as long as the engine lives.
    """

    items: list[tuple[int, Admitted | Item]]
    rows: int = 0
    queue: int = 0
    held: int = 0
    failed: str | None = None


@dataclass(eq=False)
class _Answer:
    """One that waits, or runs in row ``key`` of the pool."""

    number: int
    request: EngineRequest
    key: int = -1
    reused: dict[Writer, int] = field(default_factory=dict)
    told: bool = False  # something of its text

    def show(self, pool: Pool, key: int) -> None:
        """Begin to run."""
        self.key, self.reused = key, dict(pool.reused(key))
        self.showing = Showing(self.request, pool.trace(key))


class EngineCore:
    """Answers requests, one iteration of a pool after the other.

    Args:
        router: the pair; who writes stands in each request.
        max_rows: answers at a time.
        keep_bytes: of ended answers; see :class:`Pool`.
        interval: seconds at least between two batches, but for what goes at once.
        inbox: of messages; None ends :meth:`run`.
    """

    def __init__(
        self,
        router: Router,
        max_rows: int,
        keep_bytes: int = 0,
        interval: float = 0.0,
        inbox: SimpleQueue[ToEngine | None] | None = None,
    ) -> None:
        self.pool = Pool(router, max_rows, keep_bytes=keep_bytes)
        self._max_rows, self._interval = max_rows, interval
        self.inbox = SimpleQueue() if inbox is None else inbox
        self._waiting: deque[_Answer] = deque()
        self._running: dict[int, _Answer] = {}  # by key
        self._open: dict[int, _Answer] = {}  # by number, both kinds
        self._out: list[tuple[int, Admitted | Item]] = []
        self._sent = 0.0  # when all of it went out last
        self._urgent: set[int] = set()  # whose items do not wait
        self._state = (-1, -1, -1)  # that was sent last

    def run(self, send: Callable[[Batch], None]) -> None:
        """Answer until the inbox ends, or something fails.

        What runs then ends without an answer.
        """
        self._send_batch = send
        try:
            while self._take_in():
                self._end_late()
                if self._admit():
                    self._send(all_=True)  # to read a prompt may take long
                for key, event in self.pool.iterate():
                    self._show(key, event)
                self._send()
        except Exception as error:
            LOG.exception("the engine has failed; the server answers nothing more")
            send(Batch(self._out, failed=type(error).__name__))

    def _take_in(self) -> bool:
        """What the inbox has brought; waits where there is nothing to do. False at the end."""
        while True:
            idle = not self._open
            if idle:
                self._send(all_=True)  # what has been told must not wait for the next request
            try:
                message = self.inbox.get(block=idle)
            except Empty:
                return True
            if message is None:
                return False
            if message.request is not None:
                answer = _Answer(message.number, message.request)
                self._open[message.number] = answer
                self._waiting.append(answer)
            elif message.number in self._open:
                self._break(self._open[message.number], Cancelled("cancelled"))

    def _end_late(self) -> None:
        now = time.monotonic()
        for answer in [a for a in self._open.values() if a.request.deadline < now]:
            seconds = answer.request.deadline - answer.request.asked
            self._break(answer, TimedOut(f"the answer took longer than {seconds:g} seconds"))

    def _admit(self) -> bool:
        """Let in what there is room for; returns whether there was anything."""
        before = len(self._running)
        while self._waiting and len(self.pool) < self._max_rows:
            answer = self._waiting[0]
            request = answer.request
            try:
                key = self.pool.add(request.ids, policy=request.policy, **request.options)
            except OutOfMemoryError as error:
                if len(self.pool):
                    break  # until one that runs has ended
                self._break(answer, error)
                continue
            except Exception as error:  # of a policy of the operator's, too: it ends this one
                self._break(answer, error)
                continue
            self._waiting.popleft()
            answer.show(self.pool, key)
            self._running[key] = answer
            self._out.append((answer.number, Admitted(answer.reused, time.monotonic())))
        return len(self._running) > before

    def _show(self, key: int, event: Event) -> None:
        answer = self._running.get(key)
        if answer is None:
            return  # ended by a stop text in this iteration
        if isinstance(event, Failed):
            del self._running[key], self._open[answer.number]
            self._tell(answer, Broke(event.error))
            LOG.warning("an answer has failed: %s", event.error)
        elif isinstance(event, Done):
            self._tell(answer, *answer.showing.finish())
            self._end(answer, event.output.trace.stop_reason, event.output)
        else:
            try:
                items = answer.showing.show(event)
            except SteerError as error:  # of its policy; it ends this answer and no other
                self._break(answer, error)
                return
            self._tell(answer, *items)
            if answer.showing.stopped:
                self._end(answer, "stop", self.pool.cancel(key))

    def _end(self, answer: _Answer, reason: str, output: RoutedOutput) -> None:
        del self._running[answer.key], self._open[answer.number]
        self._tell(answer, Ended(reason, output, answer.reused, answer.showing.tokens))

    def _break(self, answer: _Answer, error: Exception) -> None:
        if answer.key in self._running:
            self.pool.cancel(answer.key)
            del self._running[answer.key]
        else:
            self._waiting.remove(answer)
        del self._open[answer.number]
        self._tell(answer, Broke(error))

    def _tell(self, answer: _Answer, *items: Item) -> None:
        self._out += [(answer.number, item) for item in items]
        if items and (not answer.told or isinstance(items[-1], Ended | Broke)):
            answer.told = True
            self._urgent.add(answer.number)

    def _send(self, all_: bool = False) -> None:
        """Hand over what does not wait, or all where it is time."""
        now = time.monotonic()
        if all_ or now - self._sent >= self._interval:
            out, self._out, self._sent = self._out, [], now
        elif self._urgent:
            out = [told for told in self._out if told[0] in self._urgent]
            self._out = [told for told in self._out if told[0] not in self._urgent]
        else:
            return
        self._urgent.clear()
        state = len(self._running), len(self._waiting), self.pool.held_bytes
        if out or state != self._state:
            self._state = state
            self._send_batch(Batch(out, *state))
