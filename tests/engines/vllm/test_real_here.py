"""Two engines of vLLM in this process, by the engine contract (`make test-vllm`)."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pytest
from steer_decode import Pair, Policy, RoutedOutput, Router, SteerError
from steer_decode.demo import DOMAINS, pair_paths, problems
from steer_decode.models.vllm_pair import VllmPair
from steer_decode.policies import parse_policy
from support.real_vllm import OPTIONS, same

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed"),
]

ROUTERS = ["steer:threshold=15.3:large_threshold=21", "random:share=0.4"]
NEW = {"max_new_tokens": 300}


@pytest.fixture(scope="module")
def here() -> Pair:
    return Pair.from_pretrained(*pair_paths(), dtype="float32")


@pytest.fixture(scope="module")
def llms() -> list[Any]:
    assert os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0", "see make test-vllm"
    from vllm import LLM

    return [LLM(model=str(folder), **OPTIONS) for folder in pair_paths()]


@pytest.fixture(scope="module")
def starved() -> Any:
    """One with nine blocks; it must not end before the others, which need what it would tidy up."""
    from vllm import LLM

    options = {**OPTIONS, "num_gpu_blocks_override": 9, "max_model_len": 256}
    return LLM(model=str(pair_paths()[0]), **options)


@pytest.fixture(scope="module")
def there(llms: list[Any]) -> VllmPair:
    return VllmPair.of(*llms)


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return [p.prompt for domain in DOMAINS for p in problems(domain, 8, split="test")]


_WANTED: dict[str, list[RoutedOutput]] = {}


@pytest.fixture(params=ROUTERS)
def policy(request: pytest.FixtureRequest) -> Policy:
    return parse_policy(request.param)


@pytest.fixture
def wanted(here: Pair, policy: Policy, prompts: list[str]) -> list[RoutedOutput]:
    if policy.name not in _WANTED:
        _WANTED[policy.name] = [Router(here, policy).generate(p, **NEW) for p in prompts]
    return _WANTED[policy.name]


def test_one_at_a_time(there: VllmPair, policy: Policy, prompts: Any, wanted: Any) -> None:
    same([Router(there, policy).generate(prompt, **NEW) for prompt in prompts], wanted)


def test_sixteen_together(there: VllmPair, policy: Policy, prompts: Any, wanted: Any) -> None:
    found = []
    for start in range(0, len(prompts), 16):
        seeds = [0] * len(prompts[start : start + 16])
        router = Router(there, policy)
        found += router.cohort(prompts[start : start + 16], seed=seeds, **NEW)
    same(found, wanted)


def test_with_preemptions(
    llms: list[Any], starved: Any, prompts: Any, here: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine blocks for sixteen conversations."""
    scheduler = starved.llm_engine.engine_core.engine_core.scheduler
    preempted, preempt = [], scheduler._preempt_request

    def note(request: Any, *more: Any, **named: Any) -> Any:
        preempted.append(request.request_id)
        return preempt(request, *more, **named)

    monkeypatch.setattr(scheduler, "_preempt_request", note)
    policy = parse_policy(ROUTERS[0])
    pair = VllmPair.of(starved, llms[1])
    short = {"max_new_tokens": 150}
    found = Router(pair, policy).cohort(prompts[:16], seed=[0] * 16, **short)
    same(found, [Router(here, policy).generate(prompt, **short) for prompt in prompts[:16]])
    assert preempted


def test_sampled_answers_have_a_seed(there: VllmPair, prompts: Any) -> None:
    router = Router(there, parse_policy(ROUTERS[0]))
    options = {"temperature": 1.0, "max_new_tokens": 60}
    first = router.generate(prompts[0], seed=1, **options)
    assert router.generate(prompts[0], seed=1, **options).token_ids == first.token_ids
    others = {tuple(router.generate(prompts[0], seed=s, **options).token_ids) for s in range(2, 6)}
    assert len(others) > 1


def test_other_logits_are_refused(llms: list[Any]) -> None:
    config = llms[1].llm_engine.model_config
    mode, config.logprobs_mode = config.logprobs_mode, "raw_logprobs"
    try:
        with pytest.raises(SteerError, match="gives raw_logprobs in place of raw logits: make it"):
            VllmPair.of(*llms)
    finally:
        config.logprobs_mode = mode


def test_a_request_that_is_too_long_fails_alone(there: VllmPair, prompts: Any) -> None:
    router = Router(there, parse_policy("large"))
    with pytest.raises(SteerError, match="the context of this pair holds 512"):
        router.generate([5] * 600)
    assert router.generate(prompts[0], max_new_tokens=4).token_ids
