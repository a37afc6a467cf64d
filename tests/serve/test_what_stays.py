"""What may be taken back is not sent: the deltas of every router add up to its answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from serve.conftest import demo_files
from steer_decode import Pair, Policy, Router, SteerError, Step
from steer_decode.core.events import StepClosed, TextDelta
from steer_decode.core.trace import Trace
from steer_decode.decode.staying import Staying
from steer_decode.demo import problems
from steer_decode.policies import POLICIES, RouterSpec
from support.served import Served

ROUTERS = [
    *(name for name, policy in POLICIES.items() if not policy.in_rounds and name != "replay"),
    "steer:threshold=15.3:large_threshold=21",
    "both-sides:fix=step",
    "both-sides:part=16:sure=0.9:least=0.5",
    "corea:threshold=0.9" if "corea" in POLICIES else "spec-reason:threshold=-0.1",
    "random:share=0.5:draft=4",
]


@pytest.mark.spread(1, ci=2)
@pytest.mark.parametrize("domain", ["math", "qa", "planning"])
@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.few(5)
def test_deltas_add_up(demo: Pair, name: str, domain: str) -> None:
    spec = RouterSpec.read(name)
    try:
        router = Router(demo, spec.make(**demo_files(spec)))
    except SteerError as error:
        pytest.skip(f"needs a file or a reward of its own: {error}")
    with Served(demo, name, files=demo_files) as server:
        for question in (problems(domain, 4)[i].prompt for i in (0, 3)):
            fields = {"stream": True, "temperature": 0.7, "seed": 3, "steer": {"trace": True}}
            lines = server.ask(question, **fields).text.split("\n\n")
            chunks = [json.loads(x[6:]) for x in lines if x.startswith("data: {")]
            said = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
            right = router.generate(question, max_new_tokens=128, temperature=0.7, seed=3)
            assert said == right.text
            pieces = [p for c in chunks for p in c.get("steer", {}).get("pieces", ())]
            assert "".join(piece["text"] for piece in pieces) == right.text
            steps = [c["steer"]["step"] for c in chunks if "step" in c.get("steer", {})]
            assert [s["discarded"] for s in steps] == [s.discarded for s in right.trace.steps]


class Wavering(Policy):
    """It says that steps stay, and takes one back."""

    name = "wavering"

    def after_step(self, step: Step) -> Any:
        return "redo"

    def stays(self, step: Step) -> bool:
        return True


class Silent(Policy):
    """It judges steps, and does not say which of them stay."""

    name = "silent"

    def after_step(self, step: Step) -> Any:
        return "small"


def shown(policy: Policy) -> list[str]:
    trace = Trace("x", "max-logit", [1])
    staying = Staying(policy, trace)
    step = Step(0, "small", [5, 6], "ab", [1.0, 1.0])
    trace.steps.append(step)
    found = []
    for token, text in ((5, "a"), (6, "b")):
        found += [d.text for d in staying.show(TextDelta(text, token, "small", 0))]
    found.append("|")
    found += [d.text for d in staying.show(StepClosed(step))]
    return found


def test_a_step_of_a_policy_that_judges_comes_with_its_verdict() -> None:
    assert shown(Policy()) == ["a", "b", "|"]
    assert shown(Silent()) == ["|", "a", "b"]


def test_a_policy_that_takes_back_what_it_was_sure_of_is_an_error() -> None:
    trace = Trace("x", "max-logit", [1])
    staying = Staying(Wavering(), trace)
    step = Step(0, "small", [5], "a", [1.0], discarded=True)
    trace.steps.append(step)
    assert staying.show(TextDelta("a", 5, "small", 0))
    with pytest.raises(SteerError, match="took step 0 back"):
        staying.show(StepClosed(step))
