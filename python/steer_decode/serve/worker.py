"""Where requests hand in tickets, before an engine.

The engine answers in a thread or a process of its own. All else here is the event loop's: tickets
are numbered and counted, and what the engine tells is brought to them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from ..decode.router import Router
from ..errors import SteerError
from ..models.two_models import TwoModels
from .engine_core import Batch, Cancelled, EngineCore, ToEngine
from .metrics import Metrics
from .tickets import Admitted, Broke, Ended, Ticket


class QueueFull(SteerError):
    """As many requests wait as may."""


class NotServing(SteerError):
    """The server ends, or its engine has failed."""


class Worker:
    """An engine, as requests see it.

    Args:
        pair: what it runs.
        max_rows: answers at a time.
        max_queue: requests that may wait beside them.

    Attributes:
        failed: why the engine answers nothing more; None as long as it does.
        metrics: what is counted.
    """

    def __init__(self, pair: TwoModels, max_rows: int, max_queue: int) -> None:
        self.pair, self._most = pair, max_rows + max_queue
        each = 0 if pair.elsewhere else pair.max_length  # tokens whose keys and values are here
        held = sum(shape.cache_bytes(each) for shape in pair.shapes.values())
        self.metrics = Metrics(capacity=max_rows * held)
        self.failed: str | None = None
        self._tickets: dict[int, Ticket] = {}  # that have not ended
        self._next = 0

    def start(self) -> None:
        """Begin to answer.

        It is called in the thread of a running event loop, in which tickets are served.
        """
        loop = asyncio.get_running_loop()
        self._begin(lambda batch: loop.call_soon_threadsafe(self._deliver, batch))

    def stop(self) -> None:
        """End the engine, whatever it is at.

        What runs ends without an answer.
        """
        raise NotImplementedError

    def _begin(self, send: Callable[[Batch], object]) -> None:
        """Let the engine run, and ``send`` what it tells, from any thread."""
        raise NotImplementedError

    def _ask(self, message: ToEngine) -> None:
        """Bring a message to the engine."""
        raise NotImplementedError

    @property
    def unanswered(self) -> int:
        """Requests that run or wait."""
        return len(self._tickets)

    def submit(self, *tickets: Ticket) -> None:
        """Take tickets in, all of them or none.

        Raises:
            QueueFull: there is no room for so many.
            NotServing: the engine has failed.
        """
        if self.failed is not None:
            raise NotServing(f"the engine has failed and answers nothing more: {self.failed}")
        if len(self._tickets) + len(tickets) > self._most:
            raise QueueFull(
                f"{len(self._tickets)} answers run or wait, and the server takes {self._most}: "
                "try again later"
            )
        for ticket in tickets:
            ticket.number, self._next = self._next, self._next + 1
            self._ask(ToEngine(ticket.number, ticket.request))
            self._tickets[ticket.number] = ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a ticket that nobody waits for any more."""
        if ticket.number in self._tickets and not ticket.gone:
            ticket.gone = True
            self._ask(ToEngine(ticket.number, None))

    def cut_off(self, why: str) -> None:
        """End all that runs or waits with an error.

        It is called in the thread of the event loop.
        """
        broke = Broke(NotServing(why))
        self._deliver(Batch([(number, broke) for number in self._tickets]))

    def _deliver(self, batch: Batch) -> None:
        for number, item in batch.items:
            ticket = self._tickets.get(number)
            if ticket is None:
                continue  # it was cut off
            if isinstance(item, Admitted):
                ticket.begun = item.at
                self.metrics.admitted(ticket, item.reused)
                continue
            if isinstance(item, Ended):
                self.metrics.answered(ticket, item)
            elif isinstance(item, Broke):
                cancelled = isinstance(item.error, Cancelled)
                self.metrics.ended("cancelled" if cancelled else "error")
            if isinstance(item, Ended | Broke):
                del self._tickets[number]
            ticket.push(item)
        self.metrics.now(batch.rows, batch.queue, batch.held)
        if batch.failed is not None:
            self.failed = batch.failed
            self.cut_off(f"the engine has failed: {batch.failed}")


class ThreadWorker(Worker):
    """An engine in a thread of this process.

    Args:
        router: the pair; who writes stands in each request.
        max_rows, max_queue: of :class:`Worker`.
        keep_bytes, interval: of :class:`EngineCore`.

    Attributes:
        core: the engine.
    """

    def __init__(
        self,
        router: Router,
        max_rows: int,
        max_queue: int,
        keep_bytes: int = 0,
        interval: float = 0.0,
    ) -> None:
        super().__init__(router.pair, max_rows, max_queue)
        self.core = EngineCore(router, max_rows, keep_bytes, interval)

    def stop(self) -> None:
        self.core.inbox.put(None)
        self._thread.join()

    def _begin(self, send: Callable[[Batch], object]) -> None:
        self._thread = threading.Thread(
            target=self.core.run, args=(send,), name="steer-engine", daemon=True
        )
        self._thread.start()

    def _ask(self, message: ToEngine) -> None:
        self.core.inbox.put(message)
