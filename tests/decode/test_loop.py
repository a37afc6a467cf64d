"""The loop's own accounts: what is read, told and drawn, and where an answer ends."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from steer_decode import (
    AlwaysLarge,
    AlwaysSmall,
    BrokenModelError,
    Done,
    FirstTokenEntropy,
    HandOver,
    Pair,
    Policy,
    RandomShare,
    Router,
    Steer,
    SteerError,
    StepClosed,
    TextDelta,
)
from support.runs import LIMIT, given_ids, run, usual_max_logit
from support.tiny import make_pair, prompt_ids


@contextmanager
def counted_forwards(pair: Pair) -> Iterator[dict[str, list[int]]]:
    """How many tokens go into each forward pass of each model, seen from outside the package."""
    counts: dict[str, list[int]] = {"small": [], "large": []}
    hooks = [
        pair.model(w).register_forward_pre_hook(  # type: ignore[arg-type]
            lambda m, a, kw, w=w: counts[w].append(kw["input_ids"].shape[1]), with_kwargs=True
        )
        for w in counts
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def test_hand_over_prefills_exactly_what_the_other_model_wrote() -> None:
    pair = make_pair("qwen2", 3)
    prompt = prompt_ids(3)
    with counted_forwards(pair) as counts:
        out = run(pair, RandomShare(0.5), 3)
    expected: dict[str, list[int]] = {"small": [], "large": []}
    unread = {"small": len(prompt), "large": len(prompt)}
    for step in out.trace.kept:
        # The writer's first pass takes all that it has not read; each later one a single token.
        expected[step.writer] += [unread[step.writer]] + [1] * (len(step.token_ids) - 1)
        unread[step.writer] = 1  # its own last token
        unread["large" if step.writer == "small" else "small"] += len(step.token_ids)
    assert counts == expected
    assert out.cost.hand_overs >= 2


@pytest.mark.parametrize("policy", [Steer(threshold=1e9), FirstTokenEntropy(1.0)])
def test_no_model_reads_a_token_twice(policy: Policy) -> None:
    pair = make_pair("llama", 1)
    with counted_forwards(pair) as counts:
        out = run(pair, policy, 1)
    total = len(prompt_ids(1)) + len(out.token_ids) + out.cost.discarded_tokens
    for writer, usage in (("small", out.cost.small), ("large", out.cost.large)):
        assert sum(counts[writer]) == usage.processed <= total
        assert len(counts[writer]) == usage.forwards


def test_trace_accounts_for_every_token_and_text() -> None:
    pair = make_pair("qwen3", 2)
    out = run(pair, Steer(threshold=usual_max_logit(pair, 2)), 2)
    kept = [i for step in out.trace.kept for i in step.token_ids]
    assert kept == out.token_ids
    assert [s.index for s in out.trace.kept] == list(range(len(out.trace.kept)))
    assert out.text == pair.tokenizer.decode(out.token_ids, skip_special_tokens=True)
    written = out.cost.small.written + out.cost.large.written
    assert written == len(kept) + out.cost.discarded_tokens
    assert all(len(s.values) == len(s.token_ids) for s in out.trace.steps)
    large = sum(len(s.token_ids) for s in out.trace.kept if s.writer == "large")
    assert out.cost.large_token_share == pytest.approx(large / len(kept))


def test_stream_tells_the_same_story_as_generate() -> None:
    pair = make_pair("qwen2", 5)
    policy = Steer(threshold=usual_max_logit(pair, 5))
    with given_ids(pair, prompt_ids(5)):
        events = list(Router(pair, policy).stream("as given", max_new_tokens=LIMIT))
    out = events[-1].output  # type: ignore[union-attr]
    assert isinstance(events[-1], Done)
    pieces: list[str] = []
    text = ""
    for event in events:
        if isinstance(event, TextDelta):
            pieces.append(event.text)
        if isinstance(event, StepClosed):
            text += "" if event.step.discarded else "".join(pieces)
            pieces = []
    assert text == out.text
    assert sum(isinstance(e, HandOver) for e in events) == out.cost.hand_overs
    assert out.token_ids == run(pair, policy, 5).token_ids


def test_a_stream_may_be_left_at_any_point() -> None:
    pair = make_pair("qwen2", 6)
    whole = run(pair, RandomShare(0.5), 6).token_ids
    with given_ids(pair, prompt_ids(6)):
        for stop in (1, 7, 20):
            stream = Router(pair, RandomShare(0.5)).stream("x", max_new_tokens=LIMIT, seed=6)
            seen = [next(stream) for _ in range(stop)]
            ids = [e.token_id for e in seen if isinstance(e, TextDelta)]
            assert stream.output.token_ids == ids == whole[: len(ids)]
    assert run(pair, RandomShare(0.5), 6).token_ids == whole


def test_transformers_has_nothing_to_warn_of() -> None:
    """Arguments that a newer release renames would warn at each pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(make_pair("llama", 1), RandomShare(0.5), 1)


def test_sampling_is_a_function_of_the_seed() -> None:
    pair = make_pair("llama", 4)
    outs = [run(pair, RandomShare(0.3), s, temperature=1.0).token_ids for s in (7, 7, 8)]
    assert outs[0] == outs[1] != outs[2]


def test_padding_rows_of_the_head_never_win() -> None:
    pair = make_pair("llama", 0)
    with torch.no_grad():
        for model in (pair.small, pair.large):
            model.get_output_embeddings().weight[34:] = 50.0
            model.get_output_embeddings().weight[34:, ::2] = -50.0
    for temperature in (0.0, 1.0):
        out = run(pair, RandomShare(0.5), 0, temperature=temperature)
        assert max(out.token_ids) < 34


def test_nan_logits_name_the_model_and_the_step() -> None:
    pair = make_pair("llama", 0)
    with torch.no_grad():
        pair.large.get_output_embeddings().weight[3] = float("nan")
    with pytest.raises(BrokenModelError, match=r"the large model returned .* step 0"):
        run(pair, AlwaysLarge(), 0)


class _Answers(Policy):
    """Gives one fixed answer after each step."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def after_step(self, step):  # type: ignore[no-untyped-def]
        return self.answer


def test_a_policy_that_answers_nonsense_is_named() -> None:
    pair = make_pair("llama", 2)
    with pytest.raises(SteerError, match=r"'custom' answered 'medium' after step 0"):
        run(pair, _Answers("medium"), 2)
    with pytest.raises(SteerError, match="took step 0 back twice"):
        run(pair, _Answers("redo"), 2)


def test_the_context_is_a_limit_too() -> None:
    pair = make_pair("llama", 2, positions=20)
    # The seed matters: this pair must not end the text by itself before.
    out = run(pair, AlwaysSmall(), 2, limit=100)
    if out.trace.stop_reason != "eos":
        assert out.trace.stop_reason == "context"
        assert len(prompt_ids(2)) + len(out.token_ids) == 20


def test_several_prompts_are_answered_in_turn() -> None:
    pair = make_pair("qwen2", 1)
    router = Router(pair, RandomShare(0.5))
    prompts = ["w1 w2.\n\n", "w3,w4"]
    both = router.generate(prompts, max_new_tokens=20, seed=3)
    alone = [router.generate(p, max_new_tokens=20, seed=3 + i) for i, p in enumerate(prompts)]
    assert [o.token_ids for o in both] == [o.token_ids for o in alone]
