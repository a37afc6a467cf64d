"""What ended answers have read is kept: the next turn of a conversation reads only what is new."""

from __future__ import annotations

from typing import Any

import pytest
from steer_decode import AlwaysLarge, AlwaysSmall, Policy, RandomShare, Router, Speculative, Steer
from steer_decode.core.events import Done, Failed, RoutedOutput
from steer_decode.decode.pool import Pool
from support.tiny import make_pair

PAIR = make_pair("llama", 0)
ROUTER = Router(PAIR, RandomShare(0.5))
ROOM = 1 << 30


def ids(seed: int, n: int) -> list[int]:
    return [5 + (seed * 37 + i * i * 11 + i * seed) % 28 for i in range(n)]


def answered(pool: Pool, prompt: list[int], **options: Any) -> tuple[RoutedOutput, dict[str, int]]:
    """One answer to its end, and what of the prompt each model had read."""
    key = pool.add(prompt, max_new_tokens=24, **options)
    reused: dict[str, int] = dict(pool.reused(key))
    for _, event in pool.run():
        assert not isinstance(event, Failed), event
        if isinstance(event, Done):
            return event.output, reused
    raise AssertionError("it has not ended")


@pytest.mark.parametrize(
    "policy", [AlwaysSmall(), RandomShare(0.5), Steer(threshold=8.0), Speculative(3)], ids=str
)
@pytest.mark.few(2)
def test_a_conversation_reads_only_what_is_new(policy: Policy) -> None:
    pool, router = Pool(ROUTER, keep_bytes=ROOM), Router(PAIR, policy)
    prompt, before = ids(1, 40), 0
    for turn in range(4):
        output, reused = answered(pool, prompt, policy=policy)
        afresh = router.generate(prompt, max_new_tokens=24)
        assert output.token_ids == afresh.token_ids
        assert reused["small"] >= before - 1  # the last token may not have been read
        processed = output.cost.small.processed
        assert processed == afresh.cost.small.processed - reused["small"]
        before = len(prompt)
        prompt = [*prompt, *output.token_ids, *ids(turn + 2, 9)]


def test_what_is_not_in_common_is_read_anew() -> None:
    pool = Pool(ROUTER, keep_bytes=ROOM)
    first = ids(1, 60)
    answered(pool, first)
    other = [*first[:45], *ids(9, 20)]
    output, reused = answered(pool, other)
    assert set(reused.values()) <= {45, 0}
    assert reused["small"] == 45
    assert output.token_ids == ROUTER.generate(other, max_new_tokens=24).token_ids


def test_a_long_conversation_is_not_given_up_for_its_first_words() -> None:
    pool = Pool(ROUTER, keep_bytes=ROOM)
    long = ids(1, 90)
    output, _ = answered(pool, long)
    _, reused = answered(pool, [*long[:20], *ids(9, 20)])
    assert not any(reused.values())
    _, reused = answered(pool, [*long, *output.token_ids, 7])
    assert reused["small"] >= len(long)


def test_the_same_prompt_again_reads_one_token_at_least() -> None:
    pool = Pool(ROUTER, keep_bytes=ROOM)
    prompt = ids(3, 50)
    first, _ = answered(pool, prompt)
    again, reused = answered(pool, prompt)
    assert again.token_ids == first.token_ids
    assert reused["small"] == 49


def test_nothing_is_kept_beyond_the_budget() -> None:
    per_token = sum(shape.cache_bytes(1) for shape in PAIR.shapes.values())
    pool = Pool(Router(PAIR, AlwaysLarge()), keep_bytes=200 * per_token)
    for seed in range(6):
        answered(pool, ids(seed + 1, 60))
    _, reused = answered(pool, ids(1, 60))  # given up for those that ended after it
    assert not any(reused.values())
    _, reused = answered(pool, ids(6, 60))
    assert reused["large"] == 59
    pool.forget()
    assert pool.held_bytes == 0


def test_without_a_budget_nothing_is_held_when_nothing_runs() -> None:
    pool = Pool(ROUTER)
    answered(pool, ids(1, 60))
    assert pool.held_bytes == 0
    _, reused = answered(pool, ids(1, 60))
    assert not any(reused.values())


def test_a_new_answer_takes_the_place_of_one_that_is_kept() -> None:
    pool = Pool(ROUTER, max_rows=2, keep_bytes=ROOM)
    kept = ids(1, 40)
    answered(pool, kept)
    for seed in (2, 3):
        pool.add(ids(seed, 40), max_new_tokens=24)
    found = {key: event.output for key, event in pool.run() if isinstance(event, Done)}
    for (key, each), seed in zip(sorted(found.items()), (2, 3), strict=True):
        assert each.token_ids == ROUTER.generate(ids(seed, 40), max_new_tokens=24).token_ids, key


class Broken(RandomShare):
    """It fails when an answer is made."""

    def question(self, pair: object) -> None:
        raise RuntimeError("planted")


def test_an_answer_that_cannot_be_made_leaves_no_place_taken() -> None:
    pool = Pool(ROUTER, max_rows=1, keep_bytes=ROOM)
    prompt = ids(1, 40)
    answered(pool, prompt)
    with pytest.raises(RuntimeError, match="planted"):
        pool.add(prompt, policy=Broken(0.5), max_new_tokens=24)
    assert len(pool) == 0
    assert pool.held_bytes == 0  # the kept place was given up, not lost
    output, reused = answered(pool, prompt)
    assert not any(reused.values())
    assert output.token_ids == ROUTER.generate(prompt, max_new_tokens=24).token_ids


def test_a_cancelled_answer_is_kept_as_far_as_it_was_read() -> None:
    pool = Pool(ROUTER, keep_bytes=ROOM)
    prompt = ids(4, 50)
    key = pool.add(prompt, max_new_tokens=60)
    for _ in range(6):
        list(pool.iterate())
    pool.cancel(key)
    output, reused = answered(pool, prompt)
    assert reused["small"] == 49
    assert output.token_ids == ROUTER.generate(prompt, max_new_tokens=24).token_ids
