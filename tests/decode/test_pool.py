"""Rows that come and go: at any order of arrival, the tokens are those of an answer alone."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest
import torch
from steer_decode import (
    AlwaysSmall,
    FirstTokenEntropy,
    Policy,
    RandomShare,
    Router,
    Steer,
    SteerCohort,
    SteerError,
    Step,
)
from steer_decode.core.boundary import StepBoundary
from steer_decode.core.events import Done, Failed, TextDelta
from steer_decode.core.transcript import Writer
from steer_decode.decode.pool import Pool, PoolFull
from steer_decode.errors import BrokenModelError, OutOfMemoryError
from support.tiny import make_pair, prompt_text

PAIR = make_pair("llama", 0)
POLICIES: tuple[Policy, ...] = (
    FirstTokenEntropy(3.0),
    RandomShare(0.5),
    Steer(threshold=8.0),
    RandomShare(0.3),
)
SAMPLINGS: tuple[dict[str, float], ...] = (
    {},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 5},
)


def wanted(i: int) -> dict[str, Any]:
    """What the i-th answer asks for; no two kinds at a time are alike."""
    boundary = StepBoundary(PAIR.tokenizer, PAIR.vocab_size, max_tokens=7) if i % 5 == 4 else None
    return {
        "policy": POLICIES[i % len(POLICIES)],
        "boundary": boundary,
        "max_new_tokens": 20 + 7 * (i % 4),
        "seed": 100 + i,
        **SAMPLINGS[i % len(SAMPLINGS)],
    }


@functools.cache
def alone(i: int) -> list[int]:
    options = wanted(i)
    policy, boundary = options.pop("policy"), options.pop("boundary")
    return Router(PAIR, policy, boundary).generate(prompt(i), **options).token_ids


def prompt(i: int) -> str:
    return prompt_text(i, 3 + (11 * i) % 40)


@pytest.mark.spread
@pytest.mark.parametrize("ahead", [1, 4])
@pytest.mark.parametrize(("places", "part", "seed"), [(1, 8, 0), (3, None, 1), (8, 8, 2)])
@pytest.mark.few(1)
def test_any_order_of_arrival(places: int, part: int | None, seed: int, ahead: int) -> None:
    chance, n = random.Random(seed), 14
    pool = Pool(Router(PAIR, AlwaysSmall(), ahead=ahead), max_rows=places, part=part)
    todo, of, found = list(range(n)), {}, {}
    chance.shuffle(todo)
    while todo or len(pool):
        while todo and len(pool) < places and chance.random() < 0.5:
            i = todo.pop()
            of[pool.add(prompt(i), **wanted(i))] = i
        for key, event in pool.iterate():
            assert not isinstance(event, Failed), event
            if isinstance(event, Done):
                found[of[key]] = event.output.token_ids
    assert found == {i: alone(i) for i in range(n)}
    assert pool.held_bytes == 0


def test_what_is_streamed_is_what_stays_and_costs_are_a_row_s_own() -> None:
    pool = Pool(Router(PAIR, AlwaysSmall()), max_rows=3)
    keys = [pool.add(prompt(i), max_new_tokens=12 + i) for i in range(3)]
    texts, outputs = dict.fromkeys(keys, ""), {}
    for key, event in pool.run():
        if isinstance(event, TextDelta):
            texts[key] += event.text
        elif isinstance(event, Done):
            outputs[key] = event.output
    for i, key in enumerate(keys):
        expected = Router(PAIR, AlwaysSmall()).generate(prompt(i), max_new_tokens=12 + i)
        assert texts[key] == outputs[key].text == expected.text
        assert outputs[key].cost.small.processed == expected.cost.small.processed
        assert outputs[key].cost.flops_paper == expected.cost.flops_paper


class Raises(Policy):
    name = "raises"

    def after_step(self, step: Step) -> Writer:
        raise ValueError("no idea")


def test_an_answer_that_fails_ends_alone() -> None:
    pair = make_pair("llama", 0)
    pool = Pool(Router(pair, AlwaysSmall()), max_rows=4)
    good = pool.add(prompt(0), policy=FirstTokenEntropy(3.0), max_new_tokens=40)
    raising = pool.add(prompt(1), policy=Raises(), max_new_tokens=60)
    events = dict.fromkeys((good, raising))
    for key, event in pool.run():
        events[key] = event
    assert isinstance(events[raising], Failed)
    assert "policy 'raises' failed after step 0" in str(events[raising].error)
    expected = Router(pair, FirstTokenEntropy(3.0)).generate(prompt(0), max_new_tokens=40)
    assert events[good].output.token_ids == expected.token_ids


@pytest.mark.parametrize("ahead", [1, 4])
def test_logits_that_are_no_numbers_end_their_row(ahead: int) -> None:
    """One token's embedding is NaN: whoever reads it fails, and nobody else."""
    pair = make_pair("llama", 0)
    ids = pair.encode(prompt(2))
    poison = next(i for i in range(10, 30) if i not in ids)
    with torch.no_grad():
        pair.small.get_input_embeddings().weight[poison] = float("nan")
        pair.small.get_output_embeddings().weight[poison] = 0  # which may be the same tensor
    pool = Pool(Router(pair, AlwaysSmall(), ahead=ahead), max_rows=4)
    good, bad = pool.add(prompt(2), max_new_tokens=9), pool.add([*ids[:3], poison])
    events = {}
    for key, event in pool.run():
        events[key] = event
    assert isinstance(events[bad], Failed)
    assert isinstance(events[bad].error, BrokenModelError)
    assert isinstance(events[good], Done)


def test_a_reader_who_goes_away_frees_the_place_at_once() -> None:
    pool = Pool(Router(PAIR, AlwaysSmall()), max_rows=2)
    first, second = (pool.add(prompt(i), max_new_tokens=50) for i in range(2))
    with pytest.raises(PoolFull, match="2 answers run, as many as max_rows allows"):
        pool.add(prompt(3))
    done = {}
    for key, event in pool.run():
        if isinstance(event, TextDelta) and first is not None and key == first:
            output = pool.cancel(first)
            assert output.trace.stop_reason == "cancelled"
            first = None
            third = pool.add(prompt(3), max_new_tokens=30)
        if isinstance(event, Done):
            done[key] = event.output.token_ids
    assert done == {
        second: Router(PAIR, AlwaysSmall()).generate(prompt(1), max_new_tokens=50).token_ids,
        third: Router(PAIR, AlwaysSmall()).generate(prompt(3), max_new_tokens=30).token_ids,
    }
    with pytest.raises(SteerError, match=f"answer {second} does not run"):
        pool.cancel(second)


def test_memory_is_checked_when_an_answer_comes_and_given_back_when_it_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool(Router(PAIR, AlwaysSmall()), max_rows=4)
    running = pool.add(prompt(0), max_new_tokens=30)
    list(pool.iterate())
    assert pool.held_bytes > 0
    with monkeypatch.context() as patch:
        patch.setattr("steer_decode.engines.hf.memory.available_bytes", lambda device: 1000)
        with pytest.raises(OutOfMemoryError, match="lower max_new_tokens or the number of prompts"):
            pool.add(prompt(1), max_new_tokens=400)
    assert [key for key, event in pool.run() if isinstance(event, Done)] == [running]
    assert pool.held_bytes == 0


def test_memory_shrinks_when_a_long_answer_has_gone() -> None:
    pool = Pool(Router(make_pair("llama", 0), AlwaysSmall()), max_rows=2, part=None)
    long = pool.add([5] * 480, max_new_tokens=8)
    short = pool.add([5, 6, 7], max_new_tokens=60)
    both, one = [], []
    for key, event in pool.run():
        if isinstance(event, TextDelta) and key == short:
            (both if long in pool else one).append(pool.held_bytes)
    assert max(one) < max(both) / 2


def test_a_long_prompt_lets_others_write(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Router(PAIR, AlwaysSmall()), max_rows=2, part=16)
    short = pool.add(prompt(0), max_new_tokens=40)
    list(pool.iterate())
    long = pool.add([5 + i % 20 for i in range(400)], max_new_tokens=4)
    written = 0
    while True:
        events = list(pool.iterate())
        if any(key == long and isinstance(event, TextDelta) for key, event in events):
            break
        written += sum(key == short and isinstance(event, TextDelta) for key, event in events)
    assert written >= 400 // 16 - 2


def test_what_cannot_stand_in_a_pool_is_refused() -> None:
    pool = Pool(Router(PAIR, AlwaysSmall()), max_rows=2)
    with pytest.raises(SteerError, match="judges the answers of a cohort together"):
        pool.add(prompt(0), policy=SteerCohort())
    with pytest.raises(SteerError, match="max_rows must be at least 1, got 0"):
        Pool(Router(PAIR, AlwaysSmall()), max_rows=0)
    with pytest.raises(SteerError, match=r"part must be a whole number, got 1\.5"):
        Pool(Router(PAIR, AlwaysSmall()), part=1.5)  # type: ignore[arg-type]
    assert len(pool) == 0
