"""The loop against recomputation from scratch, and against its own accounts."""

from __future__ import annotations

import random
import statistics
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import reference_loop as ref
import torch
from steer_decode import (
    SIGNALS,
    AlwaysLarge,
    AlwaysSmall,
    BrokenModelError,
    Calibration,
    Done,
    FirstTokenEntropy,
    HandOver,
    Pair,
    Policy,
    RandomShare,
    Router,
    SteerError,
    SteerOnline,
    Step,
    StepClosed,
    TextDelta,
)
from steer_decode.mixture import TwoGaussians
from steer_decode.policies import Redo
from steer_decode.transcript import Writer
from tiny import FAMILIES, make_pair, prompt_ids

LIMIT = 60


def keep(index: int, step: ref.RefStep) -> str:
    return step.writer


def stay(index: int, writer: str, logits: torch.Tensor) -> str:
    return writer


def steer_reference(limit: float) -> ref.After:
    def after(index: int, step: ref.RefStep) -> str:
        if statistics.fmean(step.max_logits) >= limit:
            return "small"
        return "redo" if index == 0 and step.writer == "small" else "large"

    return after


def posterior_reference(mixtures: dict[str, TwoGaussians], gamma: float) -> ref.After:
    def after(index: int, step: ref.RefStep) -> str:
        m, x = mixtures[step.writer], statistics.fmean(step.max_logits)
        c = m.weight_c * statistics.NormalDist(m.mean_c, m.var_c**0.5).pdf(x)
        u = (1 - m.weight_c) * statistics.NormalDist(m.mean_u, m.var_u**0.5).pdf(x)
        if c / (c + u) >= gamma:
            return "small"
        return "redo" if index == 0 and step.writer == "small" else "large"

    return after


class WeakestToken(Policy):
    """A user's own policy: takes back any step of the small model that holds a doubtful token."""

    signal = SIGNALS["max-logit"]

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def after_step(self, step: Step) -> Writer | Redo:
        doubtful = min(step.values) < self.threshold
        return "redo" if step.writer == "small" and doubtful else "small"


def routers(pair: Pair, seed: int) -> dict[str, tuple[Policy, ref.Before, ref.After]]:
    """Every built-in router, beside its rule written out anew."""
    level = _usual_max_logit(pair, seed)
    looks = run(pair, FirstTokenEntropy(1.0), seed).trace.kept
    nats = statistics.median(step.before for step in looks) + 1e-3  # type: ignore[type-var]
    mixtures = {
        "small": TwoGaussians(0.5, level - 1, 1.0, level + 1, 1.0),
        "large": TwoGaussians(0.4, level - 2, 2.0, level + 1, 1.0),
    }
    fits = {w: {-1: m} for w, m in mixtures.items()}
    calibration = Calibration(pair.fingerprint, "max-logit", fits, {"small": {}, "large": {}})  # type: ignore[arg-type]

    def first_token(index: int, writer: str, logits: torch.Tensor) -> str:
        return "large" if ref.entropy(logits) > nats else "small"

    def weakest(index: int, step: ref.RefStep) -> str:
        doubtful = min(step.max_logits) < level - 2
        return "redo" if step.writer == "small" and doubtful else "small"

    def coin(index: int, writer: str, logits: torch.Tensor) -> str:
        return "large" if random.Random(f"{seed}:{index}").random() < 0.5 else "small"

    return {
        "small": (AlwaysSmall(), lambda i, w, z: "small", keep),
        "large": (AlwaysLarge(), lambda i, w, z: "large", keep),
        "threshold": (SteerOnline(threshold=level), stay, steer_reference(level)),
        "posterior": (
            SteerOnline(calibration, gamma=0.6),
            stay,
            posterior_reference(mixtures, 0.6),
        ),
        "first-token": (FirstTokenEntropy(threshold=nats), first_token, keep),
        "random": (RandomShare(0.5), coin, keep),
        "custom": (WeakestToken(level - 2), stay, weakest),
    }


def _usual_max_logit(pair: Pair, seed: int) -> float:
    """A threshold in the midst of the scores, so that both verdicts occur, and on none of them."""
    out = run(pair, RandomShare(0.5), seed)
    return statistics.quantiles((s.score for s in out.trace.kept), n=3)[1] + 1e-3


def run(pair: Pair, policy: Policy, seed: int, limit: int = LIMIT, **options: float):
    prompt = prompt_ids(seed)
    router = Router(pair, policy)
    with _given_ids(pair, prompt):
        return router.generate("as given", max_new_tokens=limit, seed=seed, **options)


@contextmanager
def _given_ids(pair: Pair, ids: list[int]) -> Iterator[None]:
    """Lets a prompt be any ids, also those that no text would be split into."""
    object.__setattr__(pair, "encode", lambda prompt, chat=None: ids)
    try:
        yield
    finally:
        object.__delattr__(pair, "encode")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "name", ["small", "large", "threshold", "posterior", "first-token", "random", "custom"]
)
def test_greedy_equals_recomputation_from_scratch(family: str, name: str) -> None:
    handed_over = discarded = 0
    for seed in range(4):
        pair = make_pair(family, seed)
        policy, before, after = routers(pair, seed)[name]
        ids, steps = ref.generate(pair, prompt_ids(seed), LIMIT, before, after)
        out = run(pair, policy, seed)
        assert out.token_ids == ids
        ours = [(s.writer, s.token_ids, s.discarded) for s in out.trace.steps]
        assert ours == [(s.writer, s.ids, s.discarded) for s in steps]
        handed_over += out.cost.hand_overs
        discarded += out.cost.discarded_tokens
    # The comparison is worth something only where there was something to get wrong.
    assert (handed_over > 0) == (name not in ("small", "large"))
    assert (discarded > 0) == (name in ("threshold", "posterior", "custom"))


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


@pytest.mark.parametrize("policy", [SteerOnline(threshold=1e9), FirstTokenEntropy(1.0)])
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
    out = run(pair, SteerOnline(threshold=_usual_max_logit(pair, 2)), 2)
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
    policy = SteerOnline(threshold=_usual_max_logit(pair, 5))
    with _given_ids(pair, prompt_ids(5)):
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
    with _given_ids(pair, prompt_ids(6)):
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
