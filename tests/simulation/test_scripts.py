"""What recorded answers ask of the models, against what the engines counted as they wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import pytest
from steer_decode import FirstTokenEntropy, Policy, Router
from steer_decode.core.events import RoutedOutput
from steer_decode.core.transcript import WRITERS
from steer_decode.errors import SteerError
from steer_decode.evaluation.rows import ResultRow, StepRecord, step_records
from steer_decode.policies import parse_policy
from steer_decode.simulation.calls import Gate, calls_of
from steer_decode.simulation.script import Script, alone, of_row, of_trace
from support.side_door import PAIR
from support.simulated import script
from support.tiny import prompt_ids

LIMIT = 32


def written(policy: Policy, n: int = 3) -> list[RoutedOutput]:
    router = Router(PAIR, policy)
    return [router.generate(prompt_ids(i), max_new_tokens=LIMIT, seed=i) for i in range(n)]


def policies() -> dict[str, Policy]:
    """Thresholds lie in the midst of what is compared with them, so that both models write."""
    small = [s for o in written(parse_policy("small")) for s in o.trace.steps]
    looks = [s for o in written(FirstTokenEntropy(0.0)) for s in o.trace.steps]
    least = median(step.score for step in small) + 1e-3
    return {
        "steer": parse_policy(f"steer:threshold={least}"),
        "looks": FirstTokenEntropy(median(step.before or 0.0 for step in looks) + 1e-3),
        "leads": parse_policy("foreal"),
        "large": parse_policy("large"),
        "random": parse_policy("random:share=0.5"),
    }


@pytest.fixture(scope="module")
def outputs() -> dict[str, list[RoutedOutput]]:
    return {name: written(policy) for name, policy in policies().items()}


def scripts(outputs: Sequence[RoutedOutput]) -> list[Script]:
    return [of_trace(o.trace, f"answer {i}") for i, o in enumerate(outputs)]


@pytest.mark.slow
def test_both_models_write_in_what_is_tested(outputs: dict[str, list[RoutedOutput]]) -> None:
    for name in ("steer", "looks", "random"):
        assert all(sum(getattr(o.cost, w).written for o in outputs[name]) for w in WRITERS)
    assert any(step.discarded for o in outputs["steer"] for step in o.trace.steps)
    assert any(step.probed for o in outputs["looks"] for step in o.trace.steps)


@pytest.mark.parametrize("name", ["steer", "looks", "leads", "large", "random"])
def test_tokens_and_hand_overs_are_those_of_the_trace(
    outputs: dict[str, list[RoutedOutput]], name: str
) -> None:
    for output, one in zip(outputs[name], scripts(outputs[name]), strict=True):
        assert one.tokens == len(output.token_ids)
        assert one.hand_overs == output.trace.hand_overs
        for writer in WRITERS:
            assert one.written[writer] == getattr(output.cost, writer).written


@pytest.mark.parametrize("name", ["steer", "looks", "leads", "large", "random"])
def test_what_is_read_is_what_the_engines_read(
    outputs: dict[str, list[RoutedOutput]], name: str
) -> None:
    """Caches that hold everything, to the token: passes and tokens processed as they were."""
    pytest.importorskip("simpy")
    from steer_decode.simulation.arrivals import Load
    from steer_decode.simulation.run import simulate
    from support.simulated import fleet

    plan = fleet(gate="loop", one_device=True)
    some = scripts(outputs[name])
    found = simulate(some, plan, Load("closed", 1), len(some), warm=0)
    for writer in WRITERS:
        costs = [getattr(o.cost, writer) for o in outputs[name]]
        assert found.processed[writer] == sum(cost.processed for cost in costs)
        passes = sum(
            call.passes for s in some for call in calls_of(s, "loop") if call.model == writer
        )
        assert passes == sum(cost.forwards for cost in costs)


@pytest.mark.parametrize("name", ["steer", "looks", "large", "random"])
def test_results_say_what_traces_say(outputs: dict[str, list[RoutedOutput]], name: str) -> None:
    for output in outputs[name]:
        cost = output.cost
        row = ResultRow(
            name, "math", "0", 0, True, 1, 1, 1, 1, cost.hand_overs, "eos",
            step_records(output.trace), large_passes=cost.large.forwards,
        )  # fmt: skip
        found, right = of_row(row, "it"), of_trace(output.trace, "it")
        assert [a._replace(step=0) for a in found.acts] == [a._replace(step=0) for a in right.acts]
        assert found.hand_overs == cost.hand_overs


def test_an_answer_that_begins_anew() -> None:
    """Both small steps stood while they were written; the large model begins behind the prompt."""
    steps = [
        StepRecord("small", "", 4, prefilled=7, discarded=True),
        StepRecord("small", "", 5, discarded=True),
        StepRecord("large", "", 6, prefilled=7),
    ]
    row = ResultRow("corea", "math", "0", 0, True, 1, 1, 1, 1, 1, "eos", steps)
    acts = of_row(row, "it").acts
    assert [(a.model, a.context, a.writes, a.kept, a.cut) for a in acts] == [
        ("small", 7, 4, 0, None),
        ("small", 11, 5, 0, None),
        ("large", 7, 6, 6, 7),
    ]


@pytest.mark.parametrize(
    ("gate", "calls"),
    [
        # A call a step; a run of the small one and a pass that hands over; runs of both.
        ("none", [("small", 5), ("small", 5), ("large", 5), ("large", 5), ("small", 5)]),
        ("small", [("small", 11), ("large", 5), ("large", 5), ("small", 5)]),
        ("both", [("small", 11), ("large", 11), ("small", 5)]),
        ("loop", [("small", 10), ("large", 10), ("small", 5)]),
    ],
)
def test_calls_by_gate(gate: Gate, calls: list[tuple[str, int]]) -> None:
    found = calls_of(script("sslls"), gate)
    assert [(call.model, call.passes) for call in found] == calls
    assert sum(call.writes for call in found) == 25


@pytest.mark.parametrize("name", ["steer", "looks", "random"])
def test_bounds_of_calls(outputs: dict[str, list[RoutedOutput]], name: str) -> None:
    """What the engines over vLLM assert of a run, of each way to route."""
    for one in scripts(outputs[name]):
        steps = one.steps["small"] + one.steps["large"]
        gated, ungated = calls_of(one, "small"), calls_of(one, "none")
        if name == "looks":
            assert len(gated) <= 2 * one.steps["large"] + 1
            continue
        assert len(ungated) == steps
        assert len(calls_of(one, "both")) == one.hand_overs + 1
        runs = sum(call.model == "small" for call in calls_of(one, "both"))
        assert len(gated) == runs + one.steps["large"]


def test_the_large_model_alone_is_one_call() -> None:
    one = alone(script("ssl", 5, prompt=8), "large")
    (call,) = calls_of(one, "none")
    assert (call.model, call.context, call.passes, call.kept) == ("large", 8, 15, 15)


def test_stretched_answers_are_so_many_times_as_long(
    outputs: dict[str, list[RoutedOutput]],
) -> None:
    for output in outputs["steer"]:
        short, long = (of_trace(output.trace, "it", times) for times in (1, 3))
        assert (long.prompt, long.tokens) == (3 * short.prompt, 3 * short.tokens)
        assert long.hand_overs == short.hand_overs
        assert len(long.acts) == len(short.acts)


def test_what_a_trace_does_not_tell_is_refused() -> None:
    drafted = written(parse_policy("large:draft=2"), 1)[0].trace
    with pytest.raises(SteerError, match="verified drafts"):
        of_trace(drafted, "trace.json")
    plain = written(parse_policy("small"), 1)[0].trace
    asked = replace(plain, steps=[replace(plain.steps[0], answers=[-0.1, -2.0])])
    with pytest.raises(SteerError, match="questions"):
        of_trace(asked, "trace.json")
    with pytest.raises(SteerError, match="no prompt"):
        of_trace(replace(plain, prompt_ids=[]), "trace.json")
    with pytest.raises(SteerError, match="no step"):
        of_trace(replace(plain, steps=[]), "trace.json")


def test_results_of_a_router_that_grades_are_refused() -> None:
    graded = written(parse_policy("spec-reason:threshold=-100"), 1)[0]
    row = ResultRow(
        "spec-reason", "math", "0", 0, True, 1, 1, 1, 1, graded.cost.hand_overs, "eos",
        step_records(graded.trace), large_passes=graded.cost.large.forwards,
    )  # fmt: skip
    assert graded.cost.large.forwards > 0
    with pytest.raises(SteerError, match="it read drafts, of which results do not tell"):
        of_row(row, "the answer")
    assert of_trace(graded.trace, "it").acts[1].kind == "read"
