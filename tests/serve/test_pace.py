"""When what an answer has brought goes to its client: the first text and the end at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from steer_decode import Pair, Router
from steer_decode.policies import AlwaysLarge
from steer_decode.serve.engine_core import Batch, ToEngine
from steer_decode.serve.tickets import Admitted, Ended, EngineRequest, Item, Ticket, Token, arrivals
from steer_decode.serve.worker import ThreadWorker

NEVER = 1e12  # seconds
Batches = list[list[tuple[Ticket, Item]]]


def asked(tokens: list[int], **options: Any) -> Ticket:
    return Ticket(EngineRequest(tokens, AlwaysLarge(), options))


def ticket(pair: Pair, tokens: int = 12) -> Ticket:
    return asked(pair.encode("Compute 5 +6 -7 ?"), max_new_tokens=tokens)


def deliveries(
    pair: Pair, interval: float, tickets: list[Ticket], later: Ticket | None = None
) -> Batches:
    """What the worker hands over, in order; one ticket comes after three iterations."""
    worker = ThreadWorker(Router(pair, AlwaysLarge()), 4, 8, interval=interval)
    batches: list[Batch] = []
    deliver, iterate, turns = worker._deliver, worker.core.pool.iterate, iter(range(1000))

    def delivered(batch: Batch) -> None:
        batches.append(batch)
        deliver(batch)

    def iterating() -> Iterator[Any]:
        yield from iterate()
        if later is not None and next(turns) == 3:
            later.number = len(tickets)
            worker._tickets[later.number] = later
            worker.core.inbox.put(ToEngine(later.number, later.request))

    worker._deliver = delivered  # type: ignore[method-assign]
    worker.core.pool.iterate = iterating  # type: ignore[method-assign]

    async def run() -> None:
        worker.start()
        worker.submit(*tickets)
        for one in [*tickets, *([later] if later else [])]:
            async for _ in arrivals([one]):
                pass
        worker.stop()

    asyncio.run(run())
    every = [*tickets, *([later] if later else [])]
    told = [
        [(every[number], item) for number, item in batch.items if not isinstance(item, Admitted)]
        for batch in batches
    ]
    return [items for items in told if items]


def test_the_first_text_and_the_end_do_not_wait(demo: Pair) -> None:
    first, rest = deliveries(demo, NEVER, [ticket(demo)])
    assert [type(item) for _, item in first] == [Token]
    assert [type(item) for _, item in rest] == [Token] * 11 + [Ended]


def test_an_answer_that_ends_does_not_bring_what_others_hold(demo: Pair) -> None:
    short, long = ticket(demo, 5), ticket(demo, 9)
    firsts, *ends = deliveries(demo, NEVER, [short, long])
    assert [one for one, _ in firsts] == [short, long]
    assert [[(one, type(item)) for one, item in batch] for batch in ends] == [
        [(short, Token)] * 4 + [(short, Ended)],
        [(long, Token)] * 8 + [(long, Ended)],
    ]


def test_without_an_interval_each_token_goes_at_once(demo: Pair) -> None:
    batches = deliveries(demo, 0, [ticket(demo)])
    assert [len(batch) for batch in batches] == [1] * 11 + [2]  # the last one with the end


def test_what_has_been_said_goes_out_before_another_prompt_is_read(demo: Pair) -> None:
    """To read it may take long; the text that waits is seen meanwhile."""
    one, other = ticket(demo), ticket(demo)
    first, said, begun, *_ = deliveries(demo, NEVER, [one], other)
    assert [who for who, _ in first] == [one]
    assert [(who, type(item)) for who, item in said] == [(one, Token)] * 3
    assert [who for who, _ in begun] == [other]


@pytest.mark.parametrize("items", [1, 3])
def test_all_that_has_come_is_seen_together(items: int) -> None:
    async def run() -> None:
        one = asked([1])
        token = Token("a", 5, "small", 0, None, "a")
        for _ in range(items):
            one.push(token)
        assert await anext(arrivals([one])) == (0, [token] * items)

    asyncio.run(run())


def test_a_quiet_stream_is_named() -> None:
    async def run() -> None:
        arriving = arrivals([asked([1])], quiet=1e-3)
        assert await anext(arriving) == (0, [])

    asyncio.run(run())
