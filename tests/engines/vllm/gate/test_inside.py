"""The gate inside real engines of vLLM, two in this process (`make test-vllm`)."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from steer_decode import FirstTokenEntropy, Pair, Policy, RoutedOutput, Router, Steer, SteerError
from steer_decode.core.sampling import Sampling
from steer_decode.core.transcript import WRITERS, Writer
from steer_decode.demo import DOMAINS, pair_paths, problems
from steer_decode.engines.vllm.calls import Call, Order
from steer_decode.engines.vllm.gate_args import PROBE, GateArgs
from support.gate_client import Client, Routed, run, same
from support.hand_engine import Asked

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
]

HANDOFF: dict[Writer, int] = {"small": 1, "large": 1}  # <unk>
GATE = "steer_decode.engines.vllm.gate_v1:GateV1"
NEW = 300


class RealEngine:
    """An ``LLMEngine`` in this process, asked as the engines by hand are."""

    def __init__(self, folder: Any, **options: Any) -> None:
        from vllm import LLM

        self.llm = LLM(
            model=str(folder),
            dtype="float32",
            enforce_eager=True,
            logprobs_mode="raw_logits",
            max_logprobs=-1,
            max_num_seqs=16,
            block_size=32,
            disable_log_stats=True,
            logits_processors=[GATE],
            **({"kv_cache_memory_bytes": 32 << 20, "max_model_len": 512} | options),
        )
        self.engine = self.llm.llm_engine
        self.asked: dict[str, Asked] = {}
        self.numbers = itertools.count()

    def ask(self, asked: Asked) -> None:
        from vllm import SamplingParams

        name = str(next(self.numbers))
        params = SamplingParams(
            temperature=0.0,
            max_tokens=asked.most,
            stop_token_ids=sorted(asked.stops),
            logprobs=-1,
            detokenize=False,
            extra_args=asked.extra,
        )
        self.engine.add_request(name, {"prompt_token_ids": asked.prompt}, params)
        self.asked[name] = asked

    def step(self) -> list[Asked]:
        if not self.asked:
            return []
        ended = []
        for output in self.engine.step():
            asked = self.asked.get(output.request_id)
            if asked is None:
                continue
            written = output.outputs[0]
            for token, row in list(zip(written.token_ids, written.logprobs, strict=True))[
                len(asked.out) :
            ]:
                raw = torch.tensor([row[i].logprob for i in range(len(row))])
                if not asked.take(int(token), raw):
                    break
            if asked.done or output.finished:
                self.engine.abort_request([output.request_id])
                ended.append(self.asked.pop(output.request_id))
        return ended

    @property
    def scheduler(self) -> Any:
        return self.engine.engine_core.engine_core.scheduler


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair.from_pretrained(*pair_paths(), dtype="float32")


@pytest.fixture(scope="module")
def engines() -> dict[Writer, RealEngine]:
    assert os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0", "see make test-vllm"
    return {w: RealEngine(f) for w, f in zip(WRITERS, pair_paths(), strict=True)}


@pytest.fixture(scope="module")
def starved() -> RealEngine:
    """One with nine blocks, for sixteen conversations; it ends with the others."""
    return RealEngine(pair_paths()[0], num_gpu_blocks_override=9, max_model_len=256)


@pytest.fixture(scope="module")
def prompts(pair: Pair) -> list[list[int]]:
    found = [p.prompt for domain in DOMAINS for p in problems(domain, 8, split="test")]
    return [pair.tokenizer.encode(text, add_special_tokens=True) for text in found]


ROUTERS = [FirstTokenEntropy(0.5), Steer(threshold=15.3, large_threshold=21.0)]
_WANTED: dict[str, list[RoutedOutput]] = {}


@pytest.fixture(params=ROUTERS, ids=lambda policy: policy.name)
def policy(request: pytest.FixtureRequest) -> Policy:
    return request.param


@pytest.fixture
def wanted(pair: Pair, policy: Policy, prompts: list[list[int]]) -> list[RoutedOutput]:
    if policy.name not in _WANTED:
        router = Router(pair, policy)
        _WANTED[policy.name] = [router.generate(ids, max_new_tokens=NEW) for ids in prompts]
    return _WANTED[policy.name]


def routed(
    pair: Pair,
    policy: Policy,
    engines: Any,
    prompts: list[list[int]],
    gated: Sequence[Writer],
    at_once: int,
) -> list[Routed]:
    client = Client(pair, policy, {w: HANDOFF[w] for w in gated}, NEW)
    numbers = (f"{policy.name}-{at_once}-{len(gated)}-{i}" for i in range(len(prompts)))
    talks = [client.converse(name, ids) for name, ids in zip(numbers, prompts, strict=True)]
    return run(engines, talks, at_once)


@pytest.mark.parametrize("at_once", [1, 16])
def test_routes_as_the_router_does_with_the_gate_in_the_small_engine(
    pair: Pair, policy: Policy, engines: Any, prompts: Any, wanted: Any, at_once: int
) -> None:
    found = routed(pair, policy, engines, prompts, ["small"], at_once)
    same(found, wanted)
    calls = [sum(one.calls.values()) for one in found]
    large = [sum(step.writer == "large" for step in one.steps) for one in found]
    print(f"{policy}: {sum(calls)} calls, {sum(large)} large steps")
    for one, n, steps in zip(found, calls, large, strict=True):
        if policy.looks_ahead:
            assert n <= 2 * steps + 1
        else:
            writers = [step.writer for step in one.steps]
            runs = sum(a == "small" != b for a, b in zip(writers, ["", *writers], strict=False))
            assert one.calls == {"small": runs, "large": steps}


def test_a_call_is_a_run_with_the_gate_in_both(
    pair: Pair, policy: Policy, engines: Any, prompts: Any, wanted: Any
) -> None:
    found = routed(pair, policy, engines, prompts, WRITERS, 16)
    same(found, wanted)
    print(f"{policy}: {sum(sum(one.calls.values()) for one in found)} calls with two gates")
    if not policy.looks_ahead:
        assert [sum(one.calls.values()) for one in found] == [
            out.trace.hand_overs + 1 for out in wanted
        ]


def test_nothing_is_lost_where_requests_are_preempted(
    pair: Pair,
    policy: Policy,
    engines: Any,
    starved: RealEngine,
    prompts: Any,
    wanted: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    preempted: list[str] = []
    preempt = starved.scheduler._preempt_request

    def note(request: Any, *more: Any, **named: Any) -> Any:
        preempted.append(request.request_id)
        return preempt(request, *more, **named)

    monkeypatch.setattr(starved.scheduler, "_preempt_request", note)
    both = {"small": starved, "large": engines["large"]}
    same(routed(pair, policy, both, prompts, ["small"], 16), wanted)
    print(f"{policy}: {len(preempted)} preemptions")
    assert preempted


def test_the_router_itself_goes_by_the_gates(
    policy: Policy, engines: Any, prompts: Any, wanted: Any
) -> None:
    from steer_decode.models.vllm_pair import VllmPair

    there = VllmPair.of(engines["small"].llm, engines["large"].llm)
    assert there.gated
    outs = Router(there, policy).cohort(prompts, max_new_tokens=NEW)
    for out, reference in zip(outs, wanted, strict=True):
        assert out.token_ids == reference.token_ids
        found, theirs = out.trace.steps, reference.trace.steps
        assert [(s.writer, s.discarded) for s in found] == [(s.writer, s.discarded) for s in theirs]
        if out.trace.signal == reference.trace.signal:
            assert [s.score for s in found] == pytest.approx([s.score for s in theirs], rel=2e-5)


def test_a_request_that_vllm_refuses_is_bad_input(engines: Any) -> None:
    from steer_decode.engines.vllm.local import LocalCarrier

    carrier = LocalCarrier(engines["small"].engine, "the small model")
    for order in (
        Order([5] * 600, 5, (1,), Sampling(), 0, "session", "token 0 of step 0"),
        Order([5], 5, (1,), Sampling(), 0, "session", "token 0 of step 0", {"steer_id": "a"}),
    ):
        with pytest.raises(SteerError, match="the small model refuses a request"):
            carrier.send(Call(order, lambda: None))


def test_what_the_gate_refuses_ends_no_engine(engines: Any) -> None:
    from vllm.exceptions import VLLMValidationError

    small = engines["small"]
    for extra in (dict(PROBE), GateArgs("a", 5).xargs, {"steer_id": "a"}):
        with pytest.raises(VLLMValidationError, match="steer"):
            small.ask(Asked([5, 6, 7], extra, frozenset({1}), 3))
    asked = Asked([5, 6, 7], None, frozenset(), 3)
    small.ask(asked)
    while small.asked:
        small.step()
    assert asked.out
