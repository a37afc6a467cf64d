"""When what an answer has brought goes to its client: the first text and the end at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from steer_decode import Pair, Router
from steer_decode.policies import AlwaysLarge
from steer_decode.serve.metrics import Metrics
from steer_decode.serve.tickets import Ended, Item, Ticket, Token, arrivals
from steer_decode.serve.worker import Worker

NEVER = 1e12  # seconds
Batches = list[list[tuple[Ticket, Item]]]


def ticket(pair: Pair, tokens: int = 12) -> Ticket:
    return Ticket(pair.encode("Compute 5 +6 -7 ?"), AlwaysLarge(), {"max_new_tokens": tokens})


def deliveries(
    pair: Pair, interval: float, tickets: list[Ticket], later: Ticket | None = None
) -> Batches:
    """What the worker hands over, in order; one ticket comes after three iterations."""
    worker = Worker(Router(pair, AlwaysLarge()), 4, 8, 0, Metrics(), interval)
    batches: Batches = []
    deliver, iterate, turns = worker._deliver, worker.pool.iterate, iter(range(1000))

    def delivered(out: list[tuple[Ticket, Item]]) -> None:
        batches.append(out)
        deliver(out)

    def iterating() -> Iterator[Any]:
        yield from iterate()
        if later is not None and next(turns) == 3:
            worker._waiting.append(later)

    worker._deliver = delivered  # type: ignore[method-assign]
    worker.pool.iterate = iterating  # type: ignore[method-assign]

    async def run() -> None:
        worker.start()
        worker.submit(*tickets)
        for one in [*tickets, *([later] if later else [])]:
            async for _ in arrivals([one]):
                pass
        worker.stop()

    asyncio.run(run())
    return batches


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
        asked = Ticket([1], AlwaysLarge(), {})
        token = Token("a", 5, "small", 0, None, "a")
        for _ in range(items):
            asked.push(token)
        assert await anext(arrivals([asked])) == (0, [token] * items)

    asyncio.run(run())


def test_a_quiet_stream_is_named() -> None:
    async def run() -> None:
        arriving = arrivals([Ticket([1], AlwaysLarge(), {})], quiet=1e-3)
        assert await anext(arriving) == (0, [])

    asyncio.run(run())
