"""What goes wrong is named, before it runs if that can be known, and leaves the caches usable."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steer_decode import (
    AlwaysLarge,
    FirstTokenEntropy,
    OutOfMemoryError,
    Policy,
    RandomShare,
    Router,
    Session,
    Steer,
    SteerError,
    Step,
    StepStart,
    get_signal,
)
from steer_decode.core.transcript import Writer
from steer_decode.engines.hf import memory as memory_module
from support.selection import examples
from support.tiny import make_pair, prompt_text

PAIR = make_pair("llama", 0)


def test_caches_that_cannot_fit_are_refused_with_their_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompt, new = prompt_text(1), 50
    tokens = len(PAIR.encode(prompt)) + new
    needed = {w: PAIR.shapes[w].cache_bytes(tokens) for w in ("small", "large")}
    # 2 (keys and values) x heads x head size x layers x 4 bytes, a token
    assert needed["small"] == tokens * 2 * 2 * 8 * 2 * 4
    total = sum(needed.values())
    router = Router(PAIR, AlwaysLarge())
    monkeypatch.setattr(memory_module, "available_bytes", lambda device: total - 1)
    with pytest.raises(OutOfMemoryError) as caught:
        router.stream(prompt, max_new_tokens=new)
    for part in (f"{total:,} bytes", f"{needed['large']:,}", f"{total - 1:,} are available"):
        assert part in str(caught.value)
    monkeypatch.setattr(memory_module, "available_bytes", lambda device: total)
    router.stream(prompt, max_new_tokens=new)
    with pytest.raises(OutOfMemoryError, match="2 rows"):
        router.stream_cohort([prompt] * 2, max_new_tokens=new)


def test_memory_that_a_session_holds_is_not_needed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    session, prompt = Session(Router(PAIR, RandomShare(0.5))), prompt_text(1)
    session.stream(prompt, max_new_tokens=50).finish()
    monkeypatch.setattr(memory_module, "available_bytes", lambda device: 0)
    session.stream(prompt, max_new_tokens=20).finish()
    with pytest.raises(OutOfMemoryError, match="0 are available"):
        session.stream(prompt, max_new_tokens=400)


@pytest.mark.parametrize("words", ["CUDA out of memory", "DefaultCPUAllocator: can't allocate"])
def test_a_model_out_of_memory_is_named_and_nothing_is_lost(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(Router(PAIR, RandomShare(0.5)))
    prompt = prompt_text(3)
    expected = Router(PAIR, RandomShare(0.5)).generate(prompt, max_new_tokens=40)
    assert expected.cost.hand_overs
    forward, calls = type(PAIR.large).forward, itertools.count()

    def fails(self: object, *args: object, **kwargs: object) -> object:
        if self is PAIR.large and next(calls) == 5:
            kind = torch.OutOfMemoryError if "CUDA" in words else RuntimeError
            raise kind(words)
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(type(PAIR.large), "forward", fails)
        stream = session.stream(prompt, max_new_tokens=40)
        with pytest.raises(OutOfMemoryError, match="the large model ran out of memory on cpu"):
            stream.finish()
    written = stream.output.token_ids
    assert written
    assert written == expected.token_ids[: len(written)]
    # The same session then answers as if nothing had happened.
    again = session.stream(prompt, max_new_tokens=40).finish()
    assert again.token_ids == expected.token_ids


class Breaks(Policy):
    """A user's policy with a mistake in it."""

    name = "breaks"

    def __init__(self, when: str) -> None:
        self.when = when

    def before_step(self, start: StepStart) -> Writer:
        if self.when == "before" and start.index == 2:
            raise ZeroDivisionError("no steps")
        return "small"

    def after_step(self, step: Step) -> Writer:
        if self.when == "after" and step.index == 1:
            raise KeyError("large")
        return "small"


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("before", "policy 'breaks' failed before step 2: ZeroDivisionError: no steps"),
        ("after", "policy 'breaks' failed after step 1: KeyError: 'large'"),
    ],
)
def test_a_policy_that_raises_is_named_with_the_step(when: str, message: str) -> None:
    stream = Router(PAIR, Breaks(when)).stream(prompt_text(1), max_new_tokens=60)
    with pytest.raises(SteerError, match=message) as caught:
        stream.finish()
    assert isinstance(caught.value.__cause__, (ZeroDivisionError, KeyError))
    assert [step.index for step in stream.output.trace.kept] == [0, 1]


@pytest.mark.parametrize("turns", [1, 4])
def test_a_signal_that_raises_is_named(turns: int) -> None:
    def clumsy(stats):  # type: ignore[no-untyped-def]
        raise RuntimeError("not my day")

    def shapeless(stats):  # type: ignore[no-untyped-def]
        return stats.max_logit.sum()

    policy = RandomShare(0.5)
    policy.signal = get_signal(clumsy)
    with pytest.raises(SteerError, match=r"signal 'clumsy' failed at .*: RuntimeError: not my day"):
        Router(PAIR, policy, ahead=turns).generate(prompt_text(1), max_new_tokens=60)
    policy.signal = get_signal(shapeless)
    with pytest.raises(SteerError, match=r"signal 'shapeless' must return one number a row, \[1\]"):
        Router(PAIR, policy, ahead=turns).generate(prompt_text(1), max_new_tokens=60)


@pytest.mark.slow
@examples(6, 16)
def test_a_stream_may_be_given_up_at_any_event(examples: int) -> None:
    @settings(max_examples=examples)
    @given(
        stops=st.lists(st.integers(0, 60), min_size=1, max_size=4),
        turns=st.sampled_from([1, 3]),
        policy=st.sampled_from(
            [Steer(threshold=9.0), FirstTokenEntropy(threshold=0.7), RandomShare(0.5)]
        ),
        closes=st.booleans(),
    )
    def given_up(stops: list[int], turns: int, policy: Policy, closes: bool) -> None:
        session = Session(Router(PAIR, policy, ahead=turns))
        for i, stop in enumerate(stops):
            stream = session.stream(prompt_text(i % 2), max_new_tokens=40)
            for _ in itertools.islice(stream, stop):
                pass
            if closes:
                stream.close()
                assert stream.trace.stop_reason
                assert next(stream, None) is None
        last = session.stream(prompt_text(1), max_new_tokens=40).finish()
        expected = Router(PAIR, policy).generate(prompt_text(1), max_new_tokens=40)
        assert last.token_ids == expected.token_ids

    given_up()


def test_context_full_in_the_middle_of_a_step() -> None:
    pair = make_pair("llama", 2, positions=33)
    stream = Router(pair, RandomShare(0.5)).stream(prompt_text(1, 9), max_new_tokens=500)
    output = stream.finish()
    assert output.trace.stop_reason == "context"
    assert len(output.trace.prompt_ids) + len(output.token_ids) == 33
    assert not output.trace.steps[-1].closed
    assert output.text.endswith(output.trace.steps[-1].text)
