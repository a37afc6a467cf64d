"""Routers and policies go through pickle, as to another process, and answer as before."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import steer_decode
from steer_decode import Pair, Policy, RandomShare, RewardGuided, Router, Signal, parse_policy
from steer_decode.core.boundary import StepBoundary
from steer_decode.core.signals import SIGNALS
from steer_decode.demo import pair_paths, problems
from steer_decode.policies import POLICIES, EcoTab, SpecReason
from support.tiny import make_pair, prompt_text

DEMO = Path(steer_decode.__file__).parent / "demo"
ROUTERS = DEMO / "routers"
SPECS = [
    "small",
    "large",
    "steer-cohort:gamma=0.5:tokens=math",
    f"steer:calibration={DEMO / 'calibration.json'}",
    "steer:threshold=20:signal=max-logit",
    "percentile:share=0.4",
    "first-token:threshold=0.3",
    "both-sides",
    f"both-sides:share=0.3:path={ROUTERS / 'both-sides.json'}",
    "spec-reason",
    "speculative:k=auto",
    "bild:fallback=0.3",
    "prompt-lookup:match=3",
    "foreal:n=2",
    "random:share=0.5:draft=2",
    "rsd",
    f"ecotab:path={ROUTERS / 'ecotab.json'}",
    "corea:threshold=0.9",
    f"corea:path={ROUTERS / 'corea.json'}",
    f"learned:path={ROUTERS / 'policy-guided.safetensors'}",
    "random:share=0.5:signal=entropy",
    "replay:writers=SLSL",
]


def through_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def steps(output: Any) -> list[tuple[Any, ...]]:
    return [
        (s.writer, s.token_ids, s.values, s.discarded, s.posterior, s.before, s.graded)
        for s in output.trace.steps
    ]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair.from_pretrained(*pair_paths())


def test_every_policy_is_among_them() -> None:
    assert {spec.partition(":")[0] for spec in SPECS} == set(POLICIES)


OTHER_SETTINGS = {
    "steer:threshold=20:signal=max-logit",
    "both-sides",
    "random:share=0.5:draft=2",
    "corea:threshold=0.9",
}


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(spec, marks=pytest.mark.slow if spec in OTHER_SETTINGS else ())
        for spec in SPECS
    ],
    ids=lambda spec: spec.replace(str(DEMO), ""),
)
def test_a_router_answers_as_the_one_that_was_pickled(spec: str, pair: Pair) -> None:
    router = Router(pair, parse_policy(spec), ahead=2)
    prompts = [p.prompt for p in problems("math", 2, split="test")]
    expected = router.cohort(prompts, max_new_tokens=24, seed=3)
    # After answers: what a router has gathered on its way is no hindrance.
    again = through_pickle(router)
    assert str(again.policy) == str(router.policy)
    assert again.routing.ahead == router.routing.ahead
    assert again.policy.signal == router.policy.signal
    found = again.cohort(prompts, max_new_tokens=24, seed=3)
    assert [o.token_ids for o in found] == [o.token_ids for o in expected]
    assert list(map(steps, found)) == list(map(steps, expected))


@pytest.mark.parametrize("name", list(SIGNALS))
def test_a_built_in_signal_is_itself_again(name: str) -> None:
    signal = SIGNALS[name]
    assert through_pickle(signal) == signal
    assert through_pickle(signal).read is signal.read


def own_signal(stats: Any) -> Any:
    return stats.max_prob - stats.entropy


def own_reward(text: str, before: str) -> float:
    return float(len(text) % 2)


class OwnPolicy(Policy):
    name = "own"


class TestFunctionsOfTheUser:
    def test_one_that_has_a_name_goes_by_it(self) -> None:
        pair = make_pair("llama", 0)
        for policy in (
            RandomShare(0.5, Signal("own", own_signal)),
            RewardGuided(0.5, own_reward),
            OwnPolicy(),
        ):
            router = Router(pair, policy, StepBoundary(pair.tokenizer, pair.vocab_size, "\n", 9))
            again = through_pickle(router)
            assert again.boundary.settings == ("\n", 9)
            asked: dict[str, Any] = {"max_new_tokens": 20, "temperature": 1.0, "seed": 2}
            expected = router.generate(prompt_text(1), **asked)
            assert steps(again.generate(prompt_text(1), **asked)) == steps(expected)

    @pytest.mark.parametrize(
        "policy",
        [RandomShare(0.5, Signal("own", lambda stats: stats.entropy)), RewardGuided(0.5, max)],
        ids=["signal", "reward"],
    )
    def test_one_that_cannot_be_pickled_is_pickles_own_error(self, policy: Policy) -> None:
        if isinstance(policy, RewardGuided):
            policy = RewardGuided(0.5, lambda text, before: 1.0)
        with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
            pickle.dumps(policy)


def test_strings_of_any_length_go_through(tmp_path: Path) -> None:
    path = str(ROUTERS / "ecotab.json")
    policy = EcoTab(path=path, strings=["ab", "x" * 5000])
    for again in (through_pickle(policy), copy.deepcopy(policy)):
        assert again.counted(["ab", " c ", "x" * 5000], "") == [True, False, True]


def test_a_request_for_grades_is_made_anew(pair: Pair) -> None:
    policy = SpecReason()
    policy.question(pair)
    again = through_pickle(policy)
    assert again.question(pair) is None
    assert str(again) == str(policy)
