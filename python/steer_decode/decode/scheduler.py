"""Answers that advance together, an iteration at a time.

Each model runs once an iteration, on the rows that ask for it. The scheduler knows no tensor.
Answers ask, engines reply, and policies judge; here it is said who is served when, and what becomes
of a row whose engine, policy or answer fails: it ends, and no other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from ..core.cost import Usage
from ..core.events import Event, Failed
from ..core.requests import Look, Question, Read, Verify, Write
from ..core.transcript import Writer
from ..engines.base import Engine, Later
from ..errors import ServerError
from .answer import Answer, Judge
from .guard import consult_round, judged, sound
from .waiting import RowsCall, WaitingRow, WaitingRows

PAUSE = 0.02  # seconds that it waits at a time, so that whoever runs it can look up
_WAITS = (Write, Look, Read, Question, Verify, Judge)


class Scheduler:
    """Answers that advance over two engines, which it alone asks.

    Args:
        engines: one for each model, without rows.
    """

    def __init__(self, engines: Mapping[Writer, Engine]) -> None:
        self.engines = engines
        self._rows = WaitingRows()
        self._new: list[int] = []
        self._later: dict[int, Later] = {}  # rows whose replies are on their way
        self._moved = False  # whether this iteration has brought anything

    def add(self, answer: Answer, row: int | None = None) -> int:
        """Take an answer in and return its row.

        It is the least row that is free; or ``row``, whose answer has ended. What was read there of
        the same transcript need not be read again.
        """
        if row is None:
            row = next(i for i in range(len(self._rows) + 1) if i not in self._rows)
        for engine in self.engines.values():
            engine.open(row, answer)
        self._rows[row] = WaitingRow(answer)
        self._new.append(row)
        return row

    def cancel(self, row: int, reason: str = "cancelled") -> None:
        """End an answer where it is.

        Its transcript and its caches stay consistent.
        """
        held = self._rows[row]
        held.making.close()
        held.request = None
        self._new = [other for other in self._new if other != row]
        held.answer.trace.stop_reason = held.answer.trace.stop_reason or reason

    def retire(self, row: int) -> None:
        """Free the place of an answer.

        An answer that still runs is ended.
        """
        self.cancel(row)
        del self._rows[row]
        for engine in self.engines.values():
            engine.close(row)

    def seconds(self, row: int) -> float:
        """Seconds that an answer has taken.

        A pass is shared evenly by the rows that it runs over.
        """
        return self._rows[row].seconds

    def usage(self, row: int, writer: Writer) -> Usage:
        """What an answer has cost of one model."""
        return self.engines[writer].usage(row)

    @property
    def busy(self) -> bool:
        """Whether an answer is yet to end."""
        return bool(self._new) or any(r.request is not None for r in self._rows.values())

    def iterate(self) -> Iterator[tuple[int, Event]]:
        """Run each model once.

        The small model writes, then the large one reads and writes, over the rows that ask. In this
        order, so that a row whose step has just closed or was refused joins at once. Where all that
        was asked for is still on its way, it waits for the first of it, a moment at the most.
        """
        yield from self._begin()
        yield from self._serve(self._rows.to_write("small", self.engines["small"]))
        for call in self._rows.drafts_to_read(self.engines["large"]):
            yield from self._serve(call)
        yield from self._serve(self._rows.to_write("large", self.engines["large"]))
        yield from self._judge_rounds()
        if self._later and not self._moved:
            self._wait()

    def _begin(self) -> Iterator[tuple[int, Event]]:
        self._later, self._moved = {}, False
        while self._new:
            yield from self._advance(self._new.pop(0), None)

    def _wait(self) -> None:
        """Wait for the first of what is on its way; the time is shared by all who wait."""
        begin = time.perf_counter()
        next(iter(self._later.values())).wait(PAUSE)
        share = (time.perf_counter() - begin) / len(self._later)
        for row in self._later:
            if row in self._rows:
                self._rows[row].seconds += share

    def _serve(self, call: RowsCall) -> Iterator[tuple[int, Event]]:
        """Ask an engine about rows, and advance them by what it replies."""
        if call.answers:
            begin = time.perf_counter()
            call.replies = call.ask(*call.args)
            call.seconds = time.perf_counter() - begin
            yield from self._advance_all(call)

    def _advance_all(self, call: RowsCall) -> Iterator[tuple[int, Event]]:
        writer, answers = call.writer, call.answers
        marks = dict(zip(answers, call.marks, strict=True))
        moved = any(a.transcript.read[writer] > marks[i] for i, a in answers.items())
        for (row, answer), reply in zip(answers.items(), call.replies, strict=True):
            held = self._rows.get(row)
            if held is None or held.answer is not answer or held.request is None:
                continue  # its reader has gone meanwhile
            held.seconds += call.seconds / len(answers)
            if isinstance(reply, Later):
                self._later[row] = reply
                continue
            self._moved = True
            if reply is not None or not moved:
                reply = sound(reply, held.request, answer, writer, row, marks[row])
            if reply is not None:
                yield from self._advance(row, reply)

    def _judge_rounds(self) -> Iterator[tuple[int, Event]]:
        """Where every answer of a policy waits at the end of a step: judges those furthest behind.

        A step 0 that was taken back closes after the others', and is judged before they go on.
        """
        closed = {i: r.step for i, r in self._rows.asking(Judge).items()}
        for policy in {id(p): p for p in (self._rows[i].answer.policy for i in closed)}.values():
            of = [i for i, r in self._rows.items() if r.request and r.answer.policy is policy]
            if all(i in closed for i in of):
                index = min(closed[i].index for i in of)
                rows = [i for i in of if closed[i].index == index]
                verdicts = consult_round(policy, [closed[i] for i in rows])
                for row, verdict in zip(rows, verdicts, strict=True):
                    if row in self._rows.asking(Judge):  # else its reader has gone meanwhile
                        yield from self._advance(row, verdict)

    def _advance(self, row: int, reply: object) -> Iterator[tuple[int, Event]]:
        """Run one answer to its next request, or to its end; an error is its end."""
        if isinstance(reply, Exception):
            yield self._fail(row, reply)
            return
        held = self._rows[row]
        held.request, held.waited, self._moved = None, 0, True
        policy = held.answer.policy
        while True:
            begin = time.perf_counter()
            try:
                item = held.making.send(reply)
                if isinstance(item, Judge) and not policy.in_rounds:
                    reply = judged(policy, item.step, held.answer.trace)
                    continue
            except StopIteration:
                return
            except Exception as error:  # of a user's policy or hook, too: it ends this row
                yield self._fail(row, error)
                return
            finally:
                held.seconds += time.perf_counter() - begin
            if isinstance(item, _WAITS):
                held.request = item
                return
            reply = None
            yield row, item

    def _fail(self, row: int, error: Exception) -> tuple[int, Event]:
        self.cancel(row, "server" if isinstance(error, ServerError) else "error")
        return row, Failed(error)
