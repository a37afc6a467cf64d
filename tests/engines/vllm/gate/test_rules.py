"""What a gate does with one request: its rule, its faults, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import Pair, SteerError
from steer_decode.core.gate_rule import NOWHERE, GateRule, Region
from steer_decode.engines.vllm.gate_args import PROBE, GateArgs, is_gated
from support.hand_engine import Asked, HandEngine, HandV1, Logits
from support.tiny import prompt_ids
from support.vllm_interfaces import config, gate_v1, gate_v2, parameters

CPU = torch.device("cpu")
HANDOFF = 36  # a row of the small model's head that is no token's
Make = Callable[..., HandEngine]


def alone(make: Make, logits: Logits, rule: GateRule, most: int = 40, **more: Any) -> Asked:
    """One request that the gate follows, written to its end."""
    args = GateArgs("one", HANDOFF, rule, **more)
    asked = Asked(prompt_ids(1, 6), args.xargs, frozenset({36}), most)
    engine = make(logits, 4, rough=False)
    engine.ask(asked)
    while not asked.done:
        engine.step()
    return asked


def script(pair: Pair, text: list[str], *, broken: Sequence[int] = ()) -> Logits:
    """Logits of a model that writes ``text`` behind six ids; rows ``broken`` are NaN."""
    ids = [pair.tokenizer.convert_tokens_to_ids(word) for word in text]

    def row(before: Sequence[int]) -> torch.Tensor:
        found = torch.full((40,), -1.0)
        at = len(before) - 6
        if at >= 0:
            found[ids[at % len(ids)]] = 5.0 + at
        if at in broken:
            found[7] = torch.nan
        return found

    return row


STEP = ["w1", "w2", "\n\n"]
WRITTEN = [*STEP, "w3", ".\n\n", "w4", "\n", " ", "\n", "\n\n", ",", "\n\n", "w5", "\n\n"]


@pytest.mark.parametrize(
    ("first", "after", "steps"),
    [
        (0, (NOWHERE,), 1),
        (0, (Region.at_least(0), NOWHERE), 2),
        (1, (Region.at_least(0), NOWHERE), 1),
        (0, (Region.at_least(0), Region.at_least(0), NOWHERE), 3),
        (5, (NOWHERE, Region.at_least(0), NOWHERE), 1),
    ],
)
def test_a_step_is_judged_by_the_region_of_its_index(
    make: Make, pair: Pair, first: int, after: tuple[Region, ...], steps: int
) -> None:
    # Blank lines in tokens, over tokens, and with blanks in them; blank lines alone are no steps.
    ends = [3, 5, 9]
    done = alone(make, script(pair, WRITTEN), GateRule(after=after), step=first)
    assert done.out[-1] == 36
    assert len(done.out) == ends[steps - 1] + 1


@pytest.mark.parametrize(("score", "value"), [("mean", 6.0), ("min", 5.0)])
def test_the_score_is_the_mean_or_the_least_of_the_steps_tokens(
    make: Make, pair: Pair, score: str, value: float
) -> None:
    for low, length in ((value, 14), (value + 1e-9, 4)):
        rule = GateRule(after=(Region.at_least(low), Region.at_least(-9)), score=score)
        done = alone(make, script(pair, WRITTEN), rule, most=14)
        assert len(done.out) == length
        assert (done.out[-1] == 36) == (length == 4)


def test_a_step_closes_at_its_longest(make: Make, pair: Pair) -> None:
    rule = GateRule(after=(Region.at_least(0), NOWHERE))
    done = alone(make, script(pair, ["w1", "w2", "w3", "w4"]), rule, max_step=3)
    assert len(done.out) == 7
    assert done.out[-1] == 36


@pytest.mark.parametrize("broken", [1, 4])
def test_where_logits_are_nan_within_a_step_the_request_is_told(
    make: Make, pair: Pair, broken: int
) -> None:
    done = alone(
        make, script(pair, WRITTEN, broken=[broken]), GateRule(after=(Region.at_least(0),))
    )
    assert done.out[broken:] == [36]


def test_where_they_are_nan_at_a_steps_beginning_it_is_told_at_the_next_token(
    make: Make, pair: Pair
) -> None:
    for rule in (GateRule("entropy", before=Region.at_most(9)), GateRule(after=(NOWHERE,))):
        # The row that is NaN is drawn from too, by whatever the engine makes of it.
        logits = script(pair, WRITTEN, broken=[0])
        done = alone(make, logits, rule)
        assert len(done.out) == 2
        assert done.out[-1] == 36


def test_handoff_and_padding_never_win_and_others_are_left_alone(make: Make, pair: Pair) -> None:
    def eager(ids: Sequence[int]) -> torch.Tensor:
        row = script(pair, WRITTEN)(ids)
        row[36] = row[38] = 90.0
        return row

    done = alone(make, eager, GateRule(), most=9)
    assert done.out == [int(script(pair, WRITTEN)([0] * (6 + i)).argmax()) for i in range(9)]
    engine = make(eager, 4, rough=False)
    free = Asked(prompt_ids(1, 6), None, frozenset(), 3)
    engine.ask(free)
    while not free.done:
        engine.step()
    assert free.out == [36] * 3


def test_arguments_that_came_past_the_door_are_left_alone(make: Make, pair: Pair) -> None:
    engine = make(script(pair, WRITTEN), 4, rough=False)
    bad = [
        Asked(prompt_ids(1, 6), extra, frozenset(), 4)
        for extra in ({"steer_id": "a"}, {"steer_id": "b", "steer_handoff": 4000})
    ]
    for asked in bad:
        engine.ask(asked)
    while not all(asked.done for asked in bad):
        engine.step()
    assert (
        bad[0].out
        == bad[1].out
        == [int(script(pair, WRITTEN)([0] * (6 + i)).argmax()) for i in range(4)]
    )


def test_a_request_whose_values_are_lost_is_told(make: Make, pair: Pair) -> None:
    # So many others have come since it was preempted that it is not remembered.
    engine = make(script(pair, WRITTEN), 1, rough=False)

    def asked(name: str, most: int) -> Asked:
        args = GateArgs(name, 36, GateRule(after=(Region.at_least(0),)))
        return Asked(prompt_ids(1, 6), args.xargs, frozenset({36}), most)

    first = asked("first", 14)
    engine.ask(first)
    while len(first.out) < 2:
        engine.step()
    assert not first.done
    engine._drop(first)
    for i in range(40):
        other = asked(f"other-{i}", 1)
        engine.ask(other)
        while not other.done:
            engine.step()
    engine.ask(first)
    while not first.done:
        engine.step()
    assert first.out[-1] == 36
    assert len(first.out) < 14
    scan, closed = pair.boundary.scan(), True
    for token in first.out[:-1]:
        closed = scan.push(token)
        scan = pair.boundary.scan() if closed else scan
    assert not closed


@pytest.mark.parametrize("gate", [gate_v1.GateV1, gate_v2.GateV2])
def test_what_the_gate_cannot_follow_is_refused_at_the_door(gate: Any) -> None:
    args = GateArgs("a", 36, GateRule(after=(NOWHERE,)))
    gate.validate_params(parameters(args.xargs, [36]))
    gate.validate_params(parameters(None))
    with pytest.raises(ValueError, match="stop_token_ids"):
        gate.validate_params(parameters(args.xargs, [1]))
    with pytest.raises(ValueError, match="steer_after"):
        gate.validate_params(parameters(args.xargs | {"steer_after": "x"}, [36]))
    with pytest.raises(ValueError, match="gate") as answer:
        gate.validate_params(parameters(dict(PROBE)))
    assert is_gated(400, str(answer.value))


def test_v2_knows_steps_by_their_blank_lines_alone() -> None:
    args = GateArgs("a", 36, delimiter=";")
    gate_v1.GateV1.validate_params(parameters(args.xargs, [36]))
    with pytest.raises(ValueError, match="steer_delimiter"):
        gate_v2.GateV2.validate_params(parameters(args.xargs, [36]))


def test_a_tokenizer_that_cannot_be_read_ends_the_server_as_it_starts(tmp_path: Path) -> None:
    with pytest.raises(SteerError, match="tokenizer"):
        gate_v1.GateV1(config(tmp_path, 40), CPU, False)


def test_v1_fails_for_the_batch_alone(
    make: Make, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no memory")

    done, engine = _one(make, pair)
    if not isinstance(engine, HandV1):
        pytest.skip("on the device nothing fails apart")
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(gate_v1, "logit_stats", fail)
        engine.step()
    engine.step()
    assert done.done
    assert done.out[-1] == 36  # within a step


def _one(make: Make, pair: Pair) -> tuple[Asked, HandEngine]:
    args = GateArgs("one", 36, GateRule(after=(NOWHERE,)))
    asked = Asked(prompt_ids(1, 6), args.xargs, frozenset({36}), 9)
    engine = make(script(pair, ["w1", "w2", "w3", "w4", "\n\n"]), 4, rough=False)
    engine.ask(asked)
    return asked, engine
