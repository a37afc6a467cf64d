"""The thread that answers.

Requests come in by a queue, and what they are told goes out.

It alone touches the models. Between two iterations it takes in what is new, lets go what nobody
waits for, and admits what there is room for. What the iterations have brought goes to the event
loop at intervals, in one call: each wake of that loop takes Python's lock from this thread. The
first of an answer and its end go at once.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ..core.events import Done, Event, Failed, RoutedOutput
from ..core.transcript import Writer
from ..decode.pool import Pool
from ..decode.router import Router
from ..errors import OutOfMemoryError, SteerError
from .metrics import Metrics
from .tickets import Broke, Ended, Item, Showing, Ticket

LOG = logging.getLogger("steer.serve")


class QueueFull(SteerError):
    """As many requests wait as may."""


class NotServing(SteerError):
    """The server ends, or its engine has failed."""


class TimedOut(SteerError):
    """A request has taken longer than the server allows."""


class _Running(NamedTuple):
    ticket: Ticket
    showing: Showing
    reused: dict[Writer, int]


class Worker:
    """The engine thread of a server.

    Args:
        router: the pair, and who writes where a request says nothing.
        max_rows: answers at a time.
        max_queue: requests that may wait beside them.
        keep_bytes: of ended answers; see :class:`Pool`.
        metrics: what is counted.
        interval: seconds at least between two deliveries to a ticket, but for its first and last.
    """

    def __init__(
        self,
        router: Router,
        max_rows: int,
        max_queue: int,
        keep_bytes: int,
        metrics: Metrics,
        interval: float = 0.0,
    ) -> None:
        self.router = router
        self.pool = Pool(router, max_rows, keep_bytes=keep_bytes)
        self.max_rows, self._most = max_rows, max_rows + max_queue
        self.metrics, self._interval = metrics, interval
        self.failed: Exception | None = None
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: deque[Ticket] = deque()
        self._running: dict[int, _Running] = {}
        self._out: list[tuple[Ticket, Item]] = []
        self._sent = 0.0  # when all of it went out last
        self._urgent: set[Ticket] = set()  # whose items do not wait
        self._unanswered = 0  # tickets that have been taken and have not ended; of the event loop
        self._thread = threading.Thread(target=self._run, name="steer-engine", daemon=True)

    def start(self) -> None:
        """Begin to answer.

        It is called in the thread of a running event loop, to which items go.
        """
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread, whatever it is at.

        What runs ends without an answer.
        """
        self._inbox.put(None)
        self._thread.join()

    @property
    def unanswered(self) -> int:
        """Requests that run or wait."""
        return self._unanswered

    def submit(self, *tickets: Ticket) -> None:
        """Take tickets in, all of them or none.

        Raises:
            QueueFull: there is no room for so many.
            NotServing: the engine has failed.
        """
        if self.failed is not None:
            raise NotServing(f"the engine has failed and answers nothing more: {self.failed}")
        if self._unanswered + len(tickets) > self._most:
            raise QueueFull(
                f"{self._unanswered} answers run or wait, and the server takes {self._most}: "
                "try again later"
            )
        self._unanswered += len(tickets)
        for ticket in tickets:
            self._inbox.put(lambda ticket=ticket: self._waiting.append(ticket))  # type: ignore[misc]

    def cancel(self, ticket: Ticket) -> None:
        """End a ticket that nobody waits for any more."""
        if not ticket.gone:
            ticket.gone = True
            self._inbox.put(lambda: self._drop(ticket))

    def _run(self) -> None:
        while self._take_in():
            if self.failed is None:
                try:
                    self._iterate()
                except Exception as error:
                    LOG.exception("the engine has failed; the server answers nothing more")
                    self.failed = error
            if self.failed is not None:  # also of what was in the queue, or came meanwhile
                self._refuse_all(self.failed)
            self._send()

    def _iterate(self) -> None:
        self._end_late()
        if self._admit():
            self._send(all_=True)  # to read a prompt may take long
        for key, event in self.pool.iterate():
            self._show(key, event)

    def _refuse_all(self, failed: Exception) -> None:
        broke = Broke(NotServing(f"the engine has failed: {type(failed).__name__}"))
        tickets = [*self._waiting, *(held.ticket for held in self._running.values())]
        self._waiting.clear()
        self._running.clear()
        for ticket in tickets:
            self._tell(ticket, broke)

    def _take_in(self) -> bool:
        """What the queue has brought; waits where there is nothing to do. False at the end."""
        while True:
            idle = not self._running and not self._waiting
            if idle:
                self._send(all_=True)  # what has been told must not wait for the next request
            try:
                message = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if message is None:
                return False
            message()

    def _drop(self, ticket: Ticket) -> None:
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        elif ticket.key in self._running:
            self.pool.cancel(ticket.key)
            del self._running[ticket.key]
        else:
            return
        self._tell(ticket, Broke(SteerError("cancelled")))
        self.metrics.ended("cancelled")

    def _end_late(self) -> None:
        now = time.monotonic()
        late = [ticket for ticket in self._waiting if ticket.deadline < now]
        late += [held.ticket for held in self._running.values() if held.ticket.deadline < now]
        for ticket in late:
            seconds = ticket.deadline - ticket.asked
            self._break(ticket, TimedOut(f"the answer took longer than {seconds:g} seconds"))

    def _admit(self) -> bool:
        """Let in what there is room for; returns whether there was anything."""
        before = len(self._running)
        while self._waiting and len(self.pool) < self.max_rows:
            ticket = self._waiting[0]
            try:
                key = self.pool.add(ticket.ids, policy=ticket.policy, **ticket.options)
            except OutOfMemoryError as error:
                if len(self.pool):
                    break  # until one that runs has ended
                self._break(ticket, error)
                continue
            except Exception as error:  # of a policy of the operator's, too: it ends this one
                self._break(ticket, error)
                continue
            self._waiting.popleft()
            ticket.key, ticket.begun = key, time.monotonic()
            reused = dict(self.pool.reused(key))
            self._running[key] = _Running(ticket, Showing(ticket, self.pool.trace(key)), reused)
            self.metrics.admitted(ticket, reused)
        return len(self._running) > before

    def _show(self, key: int, event: Event) -> None:
        held = self._running.get(key)
        if held is None:
            return  # ended by a stop text in this iteration
        ticket, showing = held.ticket, held.showing
        if isinstance(event, Failed):
            del self._running[key]
            self._tell(ticket, Broke(event.error))
            self.metrics.ended("error")
            LOG.warning("an answer has failed: %s", event.error)
        elif isinstance(event, Done):
            self._tell(ticket, *showing.finish())
            self._end(key, event.output.trace.stop_reason, event.output)
        else:
            try:
                items = showing.show(event)
            except SteerError as error:  # of its policy; it ends this answer and no other
                self._break(ticket, error)
                return
            self._tell(ticket, *items)
            if showing.stopped:
                self._end(key, "stop", self.pool.cancel(key))

    def _end(self, key: int, reason: str, output: RoutedOutput) -> None:
        held = self._running.pop(key)
        ended = Ended(reason, output, held.reused, held.showing.tokens)
        self._tell(held.ticket, ended)
        self.metrics.answered(held.ticket, ended)

    def _break(self, ticket: Ticket, error: Exception) -> None:
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        elif ticket.key in self._running:
            self.pool.cancel(ticket.key)
            del self._running[ticket.key]
        self._tell(ticket, Broke(error))
        self.metrics.ended("error")

    def _tell(self, ticket: Ticket, *items: Item) -> None:
        self._out += [(ticket, item) for item in items]
        if items and (not ticket.told or isinstance(items[-1], Ended | Broke)):
            ticket.told = True
            self._urgent.add(ticket)

    def _send(self, all_: bool = False) -> None:
        """Hand over what does not wait, or all where it is time."""
        now = time.monotonic()
        if all_ or now - self._sent >= self._interval:
            out, self._out, self._sent = self._out, [], now
            self.metrics.now(len(self._running), len(self._waiting), self.pool.held_bytes)
        elif self._urgent:
            out = [told for told in self._out if told[0] in self._urgent]
            self._out = [told for told in self._out if told[0] not in self._urgent]
        else:
            return
        self._urgent.clear()
        if out:
            self._loop.call_soon_threadsafe(self._deliver, out)

    def _deliver(self, out: list[tuple[Ticket, Item]]) -> None:
        for ticket, item in out:
            ticket.push(item)
            if isinstance(item, Ended | Broke):
                self._unanswered -= 1
