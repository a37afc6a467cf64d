"""Prefix caches: whole blocks, room that runs out, sessions that move."""

from __future__ import annotations

import pytest
from steer_decode.simulation.blocks import BlockCache, CacheEntry
from steer_decode.simulation.calls import calls_of
from support.simulated import fleet, script


def read(cache: BlockCache, entry: CacheEntry, context: int, held: int) -> int:
    """Tokens that a call reads, which then ends."""
    found = cache.take(entry, context, held)
    assert found is not None
    cache.release(entry, held)
    return context - found


def test_whole_blocks_are_found_again() -> None:
    """As vLLM counts: 32 of 51 tokens with blocks of 32; the last token is always read."""
    cache, entry = BlockCache(32), CacheEntry()
    assert read(cache, entry, 40, 50) == 40
    assert read(cache, entry, 51, 63) == 51 - 32
    assert read(cache, entry, 64, 64) == 64 - 32  # 63 were held: one block
    assert read(cache, entry, 64, 80) == 64 - 32  # two are held, and one token has to be read


def test_blocks_of_one_token_are_exact() -> None:
    cache, entry = BlockCache(1), CacheEntry()
    assert read(cache, entry, 12, 16) == 12
    assert read(cache, entry, 17, 20) == 1
    cache.cut(entry, 14)
    assert read(cache, entry, 19, 21) == 5


def test_the_oldest_makes_room_from_its_end() -> None:
    cache = BlockCache(4, tokens=24)
    first, second, third = CacheEntry(), CacheEntry(), CacheEntry()
    read(cache, first, 12, 12)
    read(cache, second, 8, 8)
    read(cache, third, 8, 8)  # one block is free, one is the first one's last
    assert cache.evicted == 4
    assert read(cache, first, 12, 12) == 4
    assert cache.evicted == 8  # of the second, which is the oldest now


def test_what_is_let_go_of_a_conversation_that_has_ended_is_no_loss() -> None:
    cache = BlockCache(4, tokens=16)
    first, second = CacheEntry(), CacheEntry()
    read(cache, first, 12, 12)
    first.over = True
    read(cache, second, 16, 16)
    assert cache.evicted == 0


def test_who_writes_is_not_put_out() -> None:
    cache = BlockCache(4, tokens=16)
    first, second = CacheEntry(), CacheEntry()
    assert cache.take(first, 5, 12) == 0
    assert cache.take(second, 5, 8) is None
    cache.release(first, 12)
    assert cache.take(second, 5, 8) == 0


@pytest.mark.parametrize("placing", ["session", "round"])
def test_sessions_that_move_are_read_anew(placing: str) -> None:
    """With more engines than calls each call goes to one that has read nothing."""
    pytest.importorskip("simpy")
    from steer_decode.simulation.arrivals import Load
    from steer_decode.simulation.run import simulate

    one = script("slsl", 5, prompt=20)
    contexts = {
        w: [c.context for c in calls_of(one, "none") if c.model == w] for w in ("small", "large")
    }
    plan = fleet(replicas=(9, 9), placing=placing)
    found = simulate([one], plan, Load("closed", 1), 4, warm=0)
    if placing == "round":
        right = {w: 4 * sum(each) for w, each in contexts.items()}
    else:  # what was not read: 20, then its own last token and the other's five; and so on
        right = {"small": 4 * (20 + 6), "large": 4 * (25 + 6)}
    assert found.read == right


@pytest.mark.parametrize("tokens", [None, 64])
def test_caches_that_are_too_small_for_all_read_again(tokens: int | None) -> None:
    pytest.importorskip("simpy")
    from steer_decode.simulation.arrivals import Load
    from steer_decode.simulation.run import simulate

    plan = fleet(block=4, cache=tokens)
    found = simulate([script("slsl", 5, prompt=20)], plan, Load("closed", 6), 24, warm=0)
    assert found.answers == 24
    assert (sum(found.evicted.values()) > 0) == (tokens is not None)
    everything = simulate([script("slsl", 5, prompt=20)], fleet(block=4), Load("closed", 6), 24)
    assert (found.read["small"] > everything.read["small"]) == (tokens is not None)
