"""Turns without the host: the same tokens, traces and draws as a loop that looks at each token."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from steer_decode import (
    AlwaysLarge,
    BrokenModelError,
    FirstTokenEntropy,
    Policy,
    RandomShare,
    Router,
    Session,
    Steer,
    SteerError,
)
from steer_decode.core.boundary import StepBoundary
from steer_decode.engines.hf import multi_step as run_ahead
from steer_decode.engines.hf.cpu.attention import DirectAttention
from steer_decode.engines.hf.host_reads import host_reads
from support.tiny import FAMILIES, Pairs, make_pair, prompt_ids, prompt_text

ALL = (*FAMILIES, "olmo3")
PAIRS = Pairs()
POLICIES = (
    Steer(threshold=9.0),
    FirstTokenEntropy(threshold=0.7),
    RandomShare(0.5),
    AlwaysLarge(),
)


@pytest.mark.parametrize("family", ["llama", "olmo3"])
def test_an_answer_shorter_than_the_least_chunk(family: str) -> None:
    pair = PAIRS[family]
    for prompt in (2, 5, 13):
        for limit in (1, 2, 4, 7):
            ids = prompt_ids(0)[:prompt]
            expected = Router(pair, RandomShare(0.5)).generate(ids, max_new_tokens=limit)
            output = Router(pair, RandomShare(0.5), ahead=4).generate(ids, max_new_tokens=limit)
            assert output.token_ids == expected.token_ids


def trace_of(output) -> list:  # type: ignore[no-untyped-def]
    return [(s.writer, s.token_ids, s.discarded, s.closed) for s in output.trace.steps]


@pytest.mark.spread(2)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.name)
@pytest.mark.parametrize("turns", [2, 5, 8])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.few(4)
def test_what_is_written_does_not_depend_on_turns(
    turns: int, policy: Policy, temperature: float
) -> None:
    pair = PAIRS["llama"]
    prompts = [prompt_text(i, 3 + 7 * i) for i in range(5)]
    options = {"max_new_tokens": 37, "temperature": temperature, "seed": 4}
    expected = Router(pair, policy).cohort(prompts, **options)
    outputs = Router(pair, policy, ahead=turns).cohort(prompts, **options)
    for ours, theirs in zip(outputs, expected, strict=True):
        assert trace_of(ours) == trace_of(theirs)
        assert ours.trace.stop_reason == theirs.trace.stop_reason
        for a, b in zip(ours.trace.steps, theirs.trace.steps, strict=True):
            assert a.values == pytest.approx(b.values, abs=1e-3)
            assert a.before == (None if b.before is None else pytest.approx(b.before, abs=1e-3))
            assert a.prefilled == b.prefilled
            assert b.probed - 1 <= a.probed <= b.probed  # the last token may be read already
        # What lies beyond the end of a step is read in vain, and counted.
        for a, b in ((ours.cost.small, theirs.cost.small), (ours.cost.large, theirs.cost.large)):
            assert a.written == b.written
            assert b.processed <= a.processed <= b.processed + 2 * turns * len(ours.trace.steps)


@pytest.mark.parametrize("family", ALL)
@pytest.mark.few(3)
def test_every_family(family: str) -> None:
    policy = Steer(threshold=9.0)
    prompts = [prompt_text(i, 3 + 7 * i) for i in range(3)]
    expected = Router(PAIRS[family], policy).cohort(prompts, max_new_tokens=40)
    outputs = Router(PAIRS[family], policy, ahead=4).cohort(prompts, max_new_tokens=40)
    assert [trace_of(o) for o in outputs] == [trace_of(o) for o in expected]


@pytest.mark.parametrize(("delimiter", "longest"), [("\n\n", 3), ("w1", 512), ("!\n\nw", 9)])
def test_other_boundaries(delimiter: str, longest: int) -> None:
    pair = PAIRS["qwen2"]
    boundary = StepBoundary(pair.tokenizer, pair.vocab_size, delimiter, longest)
    policy, prompt = RandomShare(0.5), prompt_text(3)
    expected = Router(pair, policy, boundary).generate(prompt, max_new_tokens=50)
    output = Router(pair, policy, boundary, ahead=6).generate(prompt, max_new_tokens=50)
    assert trace_of(output) == trace_of(expected)


def test_answers_end_at_the_context() -> None:
    pair = make_pair("llama", 4, positions=40)
    router = Router(pair, RandomShare(0.5), ahead=8)
    output = router.generate(prompt_text(1, 9), max_new_tokens=500)
    assert trace_of(output) == trace_of(
        Router(pair, RandomShare(0.5)).generate(prompt_text(1, 9), max_new_tokens=500)
    )
    if output.trace.stop_reason == "context":
        assert len(output.trace.prompt_ids) + len(output.token_ids) == 40


def test_tokens_before_a_broken_one_are_kept() -> None:
    pair = make_pair("llama", 0)
    whole = Router(pair, AlwaysLarge()).generate(prompt_text(1), max_new_tokens=20).token_ids
    forward = pair.large.forward
    calls = 0

    def breaks(*args: object, **kwargs: object):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        out = forward(*args, **kwargs)
        if calls > 6:
            out.logits = torch.full_like(out.logits, torch.nan)
        return out

    breaks.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    pair.large.forward = breaks
    stream = Router(pair, AlwaysLarge(), ahead=4).stream(prompt_text(1), max_new_tokens=20)
    with pytest.raises(BrokenModelError, match="the large model returned logits that are NaN"):
        stream.finish()
    written = stream.output.token_ids
    assert 3 <= len(written) < 20
    assert written == whole[: len(written)]


def test_a_session_goes_on_after_a_stream_was_given_up() -> None:
    pair = PAIRS["llama"]
    session = Session(Router(pair, RandomShare(0.5), ahead=5))
    stream = session.stream(prompt_text(2), max_new_tokens=40)
    for _ in range(7):
        next(stream)
    expected = Router(pair, RandomShare(0.5)).generate(prompt_text(3), max_new_tokens=40)
    ours = session.stream(prompt_text(3), max_new_tokens=40).finish()
    assert ours.token_ids == expected.token_ids


def test_ahead_must_be_positive() -> None:
    with pytest.raises(SteerError, match="ahead must be at least 1, got 0"):
        Router(PAIRS["llama"], AlwaysLarge(), ahead=0)


@pytest.mark.gpu
@pytest.mark.parametrize("family", ALL)
def test_captured_turns_on_a_gpu(family: str) -> None:
    pair = make_pair(family, 0)
    prompts = [prompt_text(i, 3 + 7 * i) for i in range(3)]
    policy = Steer(threshold=9.0)
    pair.small.cuda()
    pair.large.cuda()
    expected = Router(pair, policy, ahead=1).cohort(prompts, max_new_tokens=40)
    # Twice: the second time, graphs are captured anew over caches that lie elsewhere.
    for _ in range(2):
        outputs = Router(pair, policy, ahead=8).cohort(prompts, max_new_tokens=40)
        assert [trace_of(o) for o in outputs] == [trace_of(o) for o in expected]


class FakeGraph:
    """A CUDA graph that nobody may make."""

    def __init__(self) -> None:
        raise AssertionError("a turn that reads on the host was captured")


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Has turns on the CPU try to capture themselves; collects what their trial runs read.

    Attention is as on CUDA. Capture itself is not to be had here: what would be captured is not.
    """
    found: list[list[str]] = []

    def trial(call: Callable[[], object]) -> list[str]:
        found.append(host_reads(call))
        return found[-1] or ["nothing is captured on a CPU"]

    made = run_ahead.MultiStep.__init__

    def make(self: run_ahead.MultiStep, *args: object) -> None:
        made(self, *args)  # type: ignore[arg-type]
        self._captures = True

    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(run_ahead.MultiStep, "__init__", make)
    monkeypatch.setattr(run_ahead, "host_reads", trial)
    monkeypatch.setattr(DirectAttention, "serves", lambda *a: False)
    monkeypatch.setattr(DirectAttention, "packs", lambda *a: False)
    for name, value in (
        ("Stream", lambda: stream),
        ("current_stream", lambda: stream),
        ("stream", lambda s: contextlib.nullcontext()),
        ("device", lambda d: contextlib.nullcontext()),
        ("CUDAGraph", FakeGraph),
    ):
        monkeypatch.setattr(torch.cuda, name, value)
    return found


@pytest.mark.parametrize(
    "family",
    [
        *("llama", "gemma3_text", "mixtral"),
        *(
            pytest.param(family, marks=pytest.mark.slow)
            for family in ALL
            if family not in ("llama", "gemma3_text")
        ),
    ],
)
def test_a_model_that_reads_on_the_host_runs_uncaptured(
    family: str, capturing: list[list[str]]
) -> None:
    """A mixture of experts asks which experts were chosen; the others may be captured."""
    pair = PAIRS[family] if family in ALL else make_pair(family, 0)
    if family == "mixtral":
        for model in (pair.small, pair.large):
            model.config._experts_implementation = "eager"  # all that transformers 4 has
    prompts = [prompt_text(i, 3 + 7 * i) for i in range(3)]
    policy = Steer(threshold=9.0)
    expected = Router(pair, policy).cohort(prompts, max_new_tokens=20)
    outputs = Router(pair, policy, ahead=4).cohort(prompts, max_new_tokens=20)
    assert [trace_of(o) for o in outputs] == [trace_of(o) for o in expected]
    assert capturing  # and a trial once for a lane, not for each turn
    assert len(capturing) <= 2
    assert all(bool(reads) == (family == "mixtral") for reads in capturing), capturing


@pytest.mark.parametrize("inference", [False, True])
def test_what_counts_as_a_read_on_the_host(inference: bool) -> None:
    x, i = torch.randn(4), torch.tensor([0, 2])
    mask, ones = x > 0, torch.ones(4)
    reading = {
        "item": lambda: x[0].item(),
        "a branch": lambda: bool(mask.any()),
        "a comparison": lambda: torch.equal(x, ones),
        "what is not zero": lambda: x.nonzero(),
        "by a mask": lambda: x[mask],
        "into a mask": lambda: ones.index_put((mask,), x[:1].expand(int(mask.sum()))),
        "another device": lambda: x.to("meta"),
    }
    running = {
        "by numbers": lambda: x[i],
        "into places": lambda: ones.index_put((i,), x[i]),
        "one value into a mask": lambda: ones.index_put((mask,), x[0]),
        "a choice": lambda: torch.where(mask, x, ones),
        "products": lambda: torch.softmax(x[None] @ ones[:, None], -1),
        "another dtype": lambda: x.to(torch.float64),
    }
    with torch.inference_mode(inference):
        assert [name for name, call in reading.items() if not host_reads(call)] == []
        assert {name: host_reads(call) for name, call in running.items() if host_reads(call)} == {}


def test_what_lasts_is_made_once() -> None:
    """The table over the vocabulary is of the boundary, and the buffers are of the lane."""
    pair = PAIRS["llama"]
    table = pair.boundary.token_classes(pair.eos_ids)
    assert pair.boundary.token_classes(pair.eos_ids) is table
    assert not pair.boundary.token_classes().equal(table)
    made = 0
    init = run_ahead._Buffers.__init__

    def counted(self: run_ahead._Buffers, *args: object) -> None:
        nonlocal made
        made += 1
        init(self, *args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_ahead._Buffers, "__init__", counted)
        output = Router(pair, AlwaysLarge(), ahead=2).generate(prompt_text(1), max_new_tokens=20)
    assert len(output.token_ids) > 8
    assert made == 1
