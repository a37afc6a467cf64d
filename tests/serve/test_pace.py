"""When what has come for a client is looked at: the first text and the end at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from steer_decode.errors import SteerError
from steer_decode.policies import AlwaysLarge
from steer_decode.serve.tickets import Broke, Item, Ticket, Token, arrivals

NEVER = 1e6  # seconds
END = Broke(SteerError("over"))


def token(text: str) -> Token:
    return Token(text, 5, "small", 0, None, text)


async def waits(arriving: AsyncIterator[tuple[int, list[Item]]]) -> asyncio.Future[Any]:
    """The next arrival, which does not come by itself."""
    pending = asyncio.ensure_future(anext(arriving))  # type: ignore[arg-type]
    for _ in range(20):
        await asyncio.sleep(0)
    assert not pending.done()
    return pending


def test_the_first_text_and_the_end_do_not_wait() -> None:
    async def run() -> None:
        ticket = Ticket([1], AlwaysLarge(), {})
        arriving = arrivals([ticket], NEVER)
        ticket.push(token("a"))
        assert await anext(arriving) == (0, [token("a")])
        ticket.push(token("b"))
        pending = await waits(arriving)
        ticket.push(token("c"))
        ticket.push(END)
        assert await pending == (0, [token("b"), token("c"), END])
        assert [found async for found in arriving] == []

    asyncio.run(run())


def test_an_end_while_the_reader_is_busy_is_seen() -> None:
    async def run() -> None:
        ticket = Ticket([1], AlwaysLarge(), {})
        arriving = arrivals([ticket], NEVER)
        ticket.push(token("a"))
        assert await anext(arriving) == (0, [token("a")])
        ticket.push(END)  # before it asks again
        assert await anext(arriving) == (0, [END])

    asyncio.run(run())


def test_one_choice_that_ends_does_not_end_the_other() -> None:
    async def run() -> None:
        one, other = Ticket([1], AlwaysLarge(), {}), Ticket([1], AlwaysLarge(), {})
        other.wake, other.over = one.wake, one.over
        arriving = arrivals([one, other], NEVER)
        one.push(token("a"))
        assert await anext(arriving) == (0, [token("a")])
        one.push(END)
        assert await anext(arriving) == (0, [END])
        pending = await waits(arriving)
        other.push(END)
        assert await pending == (1, [END])

    asyncio.run(run())


def test_without_an_interval_each_token_is_seen() -> None:
    async def run() -> None:
        ticket = Ticket([1], AlwaysLarge(), {})
        arriving = arrivals([ticket])
        for text in "ab":
            ticket.push(token(text))
            assert await anext(arriving) == (0, [token(text)])
        pending = await waits(arriving)
        ticket.push(END)
        assert await pending == (0, [END])

    asyncio.run(run())


def test_a_quiet_stream_is_named() -> None:
    async def run() -> None:
        arriving = arrivals([Ticket([1], AlwaysLarge(), {})], quiet=1e-3)
        assert await anext(arriving) == (0, [])

    asyncio.run(run())
