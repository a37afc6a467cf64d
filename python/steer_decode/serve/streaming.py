"""Answers on their way, whole or event by event.

Whoever goes away is noticed while the answer is made, and the answer ends with him.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..core.trace import Step
from .bodies import Bodies, step_of, usage_of
from .refusals import Refusal
from .requests import AnyRequest
from .tickets import Broke, Ended, Item, Ticket, Token, arrivals
from .worker import Worker

LOG = logging.getLogger("steer.serve")
QUIET = 15.0  # seconds after which a stream that has nothing to say sends a comment


class Gone(Exception):
    """The client has gone away."""


async def whole(worker: Worker, tickets: Sequence[Ticket], request: Request) -> list[Any]:
    """All choices of a request.

    Each is its text, its tokens and its end.

    Raises:
        Gone: nobody waits for them any more.
        Refusal: one has failed.
    """
    answers = asyncio.ensure_future(_collected(worker, tickets))
    left = asyncio.ensure_future(_left(request.receive))
    try:
        done, _ = await asyncio.wait({answers, left}, return_when=asyncio.FIRST_COMPLETED)
        if answers in done:
            return answers.result()
        raise Gone
    finally:
        left.cancel()
        answers.cancel()
        for ticket in tickets:
            worker.cancel(ticket)


async def _collected(
    worker: Worker, tickets: Sequence[Ticket]
) -> list[tuple[str, list[Token], Ended]]:
    tokens: dict[int, list[Token]] = {index: [] for index in range(len(tickets))}
    ends: dict[int, Ended] = {}
    async for index, items in arrivals(tickets):
        for item in items:
            if isinstance(item, Token):
                if not tokens[index]:
                    worker.metrics.sent(time.monotonic() - tickets[index].request.asked, first=True)
                tokens[index].append(item)
            elif isinstance(item, Broke):
                raise Refusal.of(item.error)
            elif isinstance(item, Ended):
                ends[index] = item
    texts = {index: "".join(token.text for token in said) for index, said in tokens.items()}
    return [(texts[index], tokens[index], ends[index]) for index in range(len(tickets))]


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Stream(Response):
    """A request's answers as server-sent events.

    Args:
        worker: that answers.
        tickets: one for each choice.
        bodies: of this request.
        asked: what was asked.
        prompts: how many different prompts there are.
        ended: is called with all choices when the last of them has ended.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        worker: Worker,
        tickets: Sequence[Ticket],
        bodies: Bodies,
        asked: AnyRequest,
        prompts: int,
        ended: Callable[[Sequence[tuple[Ticket, Ended]]], None],
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._worker, self._tickets, self._bodies = worker, tickets, bodies
        self._asked, self._prompts = asked, prompts
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        left = asyncio.ensure_future(_left(receive))
        sending = asyncio.ensure_future(self._send(send))
        try:
            await asyncio.wait({left, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            left.cancel()
            sending.cancel()
            for ticket in self._tickets:
                self._worker.cancel(ticket)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for text in self._events():
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[str]:
        try:
            # Chunks of one moment travel together: each write costs both sides more than its bytes.
            begun = [self._bodies.first(index) for index in range(len(self._tickets))]
            unsent = [chunk for chunk in begun if chunk]
            ends: dict[int, Ended] = {}
            sent = dict.fromkeys(range(len(self._tickets)), 0.0)
            async for index, items in arrivals(self._tickets, QUIET):
                if not items:
                    yield ": waiting\n\n"
                    continue
                chunks, ended = self._chunks(index, items)
                now = time.monotonic()
                if chunks:
                    since = sent[index] or self._tickets[index].request.asked
                    self._worker.metrics.sent(now - since, first=not sent[index])
                    sent[index] = now
                if ended:
                    ends[index] = ended
                    chunks.append(self._bodies.last(index, ended))
                unsent += chunks
                if unsent and len(ends) < len(self._tickets):
                    yield "".join(map(_event, unsent))
                    unsent = []
            answers = [(ticket, ends[index]) for index, ticket in enumerate(self._tickets)]
            self._ended(answers)
            options, steer = self._asked.stream_options, self._asked.steer
            if options is not None and options.include_usage:
                trace = steer is not None and steer.trace
                unsent.append(self._bodies.usage(usage_of(answers, self._prompts, trace)))
            yield "".join(map(_event, unsent)) + "data: [DONE]\n\n"
        except Refusal as refusal:
            yield _event(refusal.body())  # the status has been sent, so it is the event that says

    def _chunks(self, index: int, items: Sequence[Item]) -> tuple[list[Any], Ended | None]:
        """The chunks that ``items`` make: as few as can be, as they have come together."""
        chunks: list[Any] = []
        tokens: list[Token] = []
        steer = self._asked.steer
        shows = steer is not None and steer.trace

        def close() -> None:
            said = [t for t in tokens if t.text or t.log_probs]
            if said:
                told = {"pieces": _pieces(said)} if shows else None
                chunks.append(self._bodies.delta(index, said, told))
            tokens.clear()

        for item in items:
            if isinstance(item, Token):
                tokens.append(item)
            elif isinstance(item, Step):
                close()
                chunks.append(self._bodies.delta(index, (), {"step": step_of(item)}))
            else:
                close()
                if isinstance(item, Broke):
                    raise Refusal.of(item.error)
                return chunks, item
        close()
        return chunks, None


def _pieces(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """Who wrote which part of a text."""
    pieces: list[dict[str, Any]] = []
    for token in tokens:
        last = pieces[-1] if pieces else None
        if last and (last["writer"], last["step"]) == (token.writer, token.step):
            last["text"] += token.text
        else:
            pieces.append({"writer": token.writer, "step": token.step, "text": token.text})
    return pieces


def _event(chunk: Any) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
