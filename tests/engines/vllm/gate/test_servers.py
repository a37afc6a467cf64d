"""Two servers with the gate inside: fewer calls, the same answers, and routers that look ahead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from steer_decode import Pair, Policy, RoutedOutput, Router, SteerError
from steer_decode.core.transcript import WRITERS, Writer
from steer_decode.engines.vllm.handoff import handoff_of
from steer_decode.engines.vllm.servers import Patience
from steer_decode.models.vllm_pair import VllmPair
from steer_decode.policies import parse_policy
from support.stub_vllm import StubVllm
from support.tiny import make_tokenizer, prompt_ids

Stubs = dict[Writer, StubVllm]
QUICK = Patience(connect=5.0, silence=60.0, pauses=(0.0, 0.0, 0.0))
PROMPTS = [prompt_ids(seed, 4 + seed) for seed in range(4)]
LENGTH = {"max_new_tokens": 30}
ROUTERS = [
    "first-token:threshold=2.0",
    "first-token:threshold=0.15:signal=margin",
    "steer:threshold=4.6:large_threshold=4.8",
    "small",
]


@pytest.fixture(scope="module")
def _servers(here: Pair, folders: tuple[Path, Path]) -> Iterator[Stubs]:
    with ExitStack() as stack:
        yield {
            writer: stack.enter_context(
                StubVllm(here.model(writer), here.tokenizer, writer, str(folder), gate=True)
            )
            for writer, folder in zip(WRITERS, folders, strict=True)
        }


@pytest.fixture
def servers(_servers: Stubs) -> Stubs:
    for server in _servers.values():
        server.faults.clear()
        server.asked.clear()
        server.gate = True
    return _servers


def connected(servers: Stubs) -> VllmPair:
    return VllmPair.connect(servers["small"].url, servers["large"].url, patience=QUICK)


@pytest.fixture(scope="module")
def both(_servers: Stubs) -> Iterator[VllmPair]:
    pair = connected(_servers)
    yield pair
    pair.close()


@pytest.fixture
def small_only(servers: Stubs) -> Iterator[VllmPair]:
    """The gate in the small model's server alone."""
    servers["large"].gate = False
    pair = connected(servers)
    yield pair
    pair.close()


@pytest.fixture(params=ROUTERS)
def policy(request: pytest.FixtureRequest) -> Policy:
    return parse_policy(request.param)


def told(out: RoutedOutput) -> list[Any]:
    return [(s.index, s.writer, s.discarded, s.token_ids, s.closed) for s in out.trace.steps]


def same(found: RoutedOutput, wanted: RoutedOutput) -> None:
    assert found.token_ids == wanted.token_ids
    assert told(found) == told(wanted)
    if found.trace.signal == wanted.trace.signal:
        for a, b in zip(found.trace.steps, wanted.trace.steps, strict=True):
            assert a.score == pytest.approx(b.score, rel=2e-5)


@pytest.mark.few(1)
def test_answers_are_those_of_models_here_and_calls_are_runs(
    here: Pair, both: VllmPair, servers: Stubs, policy: Policy
) -> None:
    for prompt in PROMPTS:
        wanted = Router(here, policy).generate(prompt, **LENGTH)
        for server in servers.values():
            server.asked.clear()
        found = Router(both, policy).generate(prompt, **LENGTH)
        same(found, wanted)
        calls = {w: len(servers[w].asked) for w in WRITERS}
        large = sum(step.writer == "large" for step in wanted.trace.steps)
        if policy.looks_ahead:  # a step of blank lines and more takes the large model two calls
            assert calls["small"] <= large + 1
        else:
            assert sum(calls.values()) == wanted.trace.hand_overs + 1


@pytest.mark.slow
def test_with_one_gate_the_small_models_calls_are_runs(
    here: Pair, small_only: VllmPair, servers: Stubs
) -> None:
    policy = parse_policy(ROUTERS[2])
    for prompt in PROMPTS:
        wanted = Router(here, policy).generate(prompt, **LENGTH)
        for server in servers.values():
            server.asked.clear()
        same(Router(small_only, policy).generate(prompt, **LENGTH), wanted)
        writers = [step.writer for step in wanted.trace.steps]
        runs = sum(a == "small" != b for a, b in zip(writers, ["", *writers], strict=False))
        assert len(servers["small"].asked) == runs
        assert len(servers["large"].asked) >= writers.count("large")


@pytest.mark.few(1)
def test_many_conversations_at_once(here: Pair, both: VllmPair, policy: Policy) -> None:
    wanted = [Router(here, policy).generate(prompt, **LENGTH) for prompt in PROMPTS]
    for found, out in zip(Router(both, policy).cohort(PROMPTS, **LENGTH), wanted, strict=True):
        same(found, out)


def test_what_looks_ahead_has_the_largest_logits_for_scores(here: Pair, both: VllmPair) -> None:
    policy = parse_policy(ROUTERS[0])
    out = Router(both, policy).generate(PROMPTS[1], **LENGTH)
    assert out.trace.signal == "max-logit"
    reference = Router(here, parse_policy("first-token:threshold=2.0")).generate(
        PROMPTS[1], **LENGTH
    )
    assert reference.trace.signal == "entropy"
    assert all(step.before is None for step in out.trace.steps)
    alone = Router(here, parse_policy("random:share=0")).generate(PROMPTS[1], **LENGTH)
    if out.trace.steps[0].writer == "small":
        assert out.trace.steps[0].score == pytest.approx(alone.trace.steps[0].score, rel=2e-5)


@pytest.mark.parametrize("after", [0, 7])
@pytest.mark.few(3)
def test_a_fault_within_a_call_of_many_steps_is_made_good(
    here: Pair, both: VllmPair, servers: Stubs, policy: Policy, after: int
) -> None:
    wanted = Router(here, policy).generate(PROMPTS[2], **LENGTH)
    servers["small"].faults.extend([("error", after), ("drop", after + 1)])
    same(Router(both, policy).generate(PROMPTS[2], **LENGTH), wanted)
    xargs = [body["vllm_xargs"]["steer_id"] for body, _ in servers["small"].asked]
    assert len(set(xargs)) == len(xargs)  # the one before may still run in the server


def test_an_answer_that_was_broken_off_goes_on(
    here: Pair, both: VllmPair, servers: Stubs, policy: Policy
) -> None:
    wanted = Router(here, policy).generate(PROMPTS[3], **LENGTH)
    router = Router(both, policy)
    servers["small"].faults.extend([("drop", 1)] * 60)
    stream = router.stream(PROMPTS[3], **LENGTH)
    with pytest.raises(SteerError):
        for _ in stream:
            pass
    assert stream.trace.stop_reason == "server"
    servers["small"].faults.clear()
    same(router.resume(stream.output, **LENGTH).finish(), wanted)


def test_seeds_and_temperature(here: Pair, both: VllmPair, servers: Stubs) -> None:
    policy = parse_policy(ROUTERS[2])
    options = {**LENGTH, "temperature": 0.8}
    first, again, other = (
        Router(both, policy).generate(PROMPTS[2], seed=seed, **options) for seed in (1, 1, 2)
    )
    assert first.token_ids == again.token_ids
    assert told(first) == told(again)
    assert first.token_ids != other.token_ids


def test_a_router_that_looks_ahead_needs_the_gate_in_the_small_server(servers: Stubs) -> None:
    servers["small"].gate = False
    pair = connected(servers)
    try:
        with pytest.raises(SteerError, match="needs the gate inside the small model's server"):
            Router(pair, parse_policy(ROUTERS[0]))
    finally:
        pair.close()


@pytest.mark.parametrize(
    ("words", "rows", "ends", "wanted"),
    [
        (["<unk>", "<eos>", "a", "<|reserved_special_token_3|>"], 4, {1}, 3),
        (["<unk>", "<eos>", "a", "<unused7>", "<unused8>"], 8, {1}, 3),
        (["<unk>", "<eos>", "a", "unused"], 8, {1}, 4),  # a row of the head without a token
        (["<unk>", "<eos>", "a", "unused"], 4, {1}, 0),  # a word of texts is none
        (["<unk>", "<eos>", "a"], 3, {0, 1}, None),
    ],
)
def test_the_token_that_hands_over_is_one_that_no_text_uses(
    words: list[str], rows: int, ends: set[int], wanted: int | None
) -> None:
    assert handoff_of(make_tokenizer(words), rows, ends) == wanted
