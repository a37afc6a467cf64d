"""An answer that was broken off anywhere goes on to what it would have been."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from steer_decode import RoutedOutput, Router, SteerError
from steer_decode.core.saved import SavedAnswer
from steer_decode.core.trace import Step
from steer_decode.policies import parse_policy
from support.tiny import make_pair, prompt_ids

PAIR = make_pair("llama", 0)
OPTIONS = {"max_new_tokens": 40, "seed": 5}
ROUTERS = [
    "steer:threshold=20:large_threshold=14",
    "random:share=0.5",
    "first-token:threshold=2.4",
    "foreal:n=2",
    "spec-reason:grade=log-prob:threshold=-3",
    "both-sides",
]


def broken_off(router: Router, after: int, **options: Any) -> RoutedOutput:
    """An answer that ends at ``after`` events, as a fault leaves it, out of a file."""
    stream = router.stream(prompt_ids(1, 9), **options)
    for _, _event in zip(range(after), stream, strict=False):
        pass
    stream.close()
    stream.trace.stop_reason = "server"
    saved = SavedAnswer("", {"small": "s", "large": "l"}, {"small": 1, "large": 2}, stream.output)
    return SavedAnswer.from_dict(saved.to_dict()).output


def steps(output: RoutedOutput) -> list[dict[str, object]]:
    """All that a trace says of its steps but for the time."""
    found = [step.to_dict() for step in output.trace.steps]
    for step in found:
        del step["milliseconds"]
    return found


@pytest.mark.parametrize("temperature", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.few(2)
def test_it_goes_on_to_what_it_would_have_been(router: str, temperature: float) -> None:
    made = Router(PAIR, parse_policy(router))
    options = {**OPTIONS, "temperature": temperature}
    stream = made.stream(prompt_ids(1, 9), **options)
    events = sum(1 for _ in stream)
    expected = stream.output
    for after in range(1, events - 1, 1 + events // 5):
        broken = broken_off(made, after, **options)
        found = made.resume(broken, **options).finish()
        assert found.token_ids == expected.token_ids, after
        assert found.text == expected.text
        assert found.trace.stop_reason == expected.trace.stop_reason
        for a, b in zip(steps(found), steps(expected), strict=True):
            assert a.keys() == b.keys()
            for name, value in a.items():
                assert value == pytest.approx(b[name], abs=1e-3), name
        assert found.cost.small.written == expected.cost.small.written
        assert found.cost.large.discarded == expected.cost.large.discarded


def test_what_is_recorded_is_not_written_again() -> None:
    made = Router(PAIR, parse_policy("random:share=0.5"))
    broken = broken_off(made, 25, **OPTIONS)
    known = sum(len(step.token_ids) for step in broken.trace.steps)
    found = made.resume(broken, **OPTIONS).finish()
    new = len(found.token_ids) - known
    before = broken.cost.small.forwards + broken.cost.large.forwards
    # A pass for each new token; what is recorded costs each model a prefill at the most.
    assert found.cost.small.forwards + found.cost.large.forwards <= before + new + 2


def test_it_is_not_gone_on_with_by_another_router_or_after_its_end() -> None:
    made = Router(PAIR, parse_policy("random:share=0.5"))
    broken = broken_off(made, 25, **OPTIONS)
    other = Router(PAIR, parse_policy("random:share=0.25"))
    with pytest.raises(SteerError, match=r"was written by router 'random:share=0\.5.*'random:sh"):
        other.resume(broken, **OPTIONS)
    whole = made.generate(prompt_ids(1, 9), **OPTIONS)
    with pytest.raises(SteerError, match=r"has ended \(max_new_tokens\): only one that was broken"):
        made.resume(whole, **OPTIONS)
    drafted = Router(PAIR, parse_policy("speculative:k=2"))
    broken.trace.policy = "speculative:k=2"
    with pytest.raises(SteerError, match="verifies drafts, of which a trace does not tell"):
        drafted.resume(broken, **OPTIONS)


@pytest.mark.parametrize("what", ["writer", "tokens"])
def test_a_trace_that_the_router_would_not_have_written_is_refused(what: str) -> None:
    made = Router(PAIR, parse_policy("random:share=0.5"))
    broken = copy.deepcopy(broken_off(made, 35, **OPTIONS))
    step: Step = broken.trace.steps[1]
    if what == "writer":
        step.writer = "small" if step.writer == "large" else "large"
    else:
        step.token_ids[0] = PAIR.tokenizer.convert_tokens_to_ids("w1")
        step.token_ids[1] = PAIR.tokenizer.convert_tokens_to_ids(".\n\n")
    with pytest.raises(SteerError, match=r"does not go on as this router would at token . of step"):
        made.resume(broken, **OPTIONS).finish()


def test_another_seed_is_noticed_where_it_matters() -> None:
    made = Router(PAIR, parse_policy("random:share=0.5"))
    broken = broken_off(made, 35, **OPTIONS)
    with pytest.raises(SteerError, match="give the router and the options with which it was begun"):
        made.resume(broken, **{**OPTIONS, "seed": 6}).finish()
