"""The arguments of the gate survive the journey, or are refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from steer_decode import FirstTokenEntropy, RandomShare, Steer, SteerError
from steer_decode.core import signals
from steer_decode.core.boundary import MAX_STEP_TOKENS
from steer_decode.core.gate_rule import NOWHERE, GateRule, Region
from steer_decode.engines.vllm import gate_args
from steer_decode.engines.vllm.gate_args import PROBE, GateArgs, check_request, is_gated

RULES = [
    GateRule(),
    GateRule("entropy", before=Region.at_most(0.1 + 0.2)),
    GateRule("margin", after=(NOWHERE, Region(((-1e-9, 1 / 3), (2.0, 7.25))), Region.at_least(5))),
    GateRule("max-prob", score="min", before=NOWHERE, after=(NOWHERE,)),
]


@pytest.mark.parametrize("rule", RULES)
def test_arguments_come_back_bit_for_bit_from_json(rule: GateRule) -> None:
    args = GateArgs("a-1", 7, rule, step=3, delimiter="\n", max_step=40)
    xargs = json.loads(json.dumps(args.xargs))
    assert all(type(value) in (str, int) for value in xargs.values())  # what vLLM lets through
    assert GateArgs.read(xargs | {"other": [1]}) == args


def test_a_request_without_arguments_is_none_of_the_gates() -> None:
    assert GateArgs.read(None) is GateArgs.read({}) is GateArgs.read({"session_id": "x"}) is None


def test_what_is_not_said_is_as_the_loop_has_it() -> None:
    args = GateArgs.read({"steer_id": "a", "steer_handoff": 1})
    assert args == GateArgs("a", 1)
    assert args.max_step == MAX_STEP_TOKENS
    assert list(gate_args.SIGNALS) == list(signals.SIGNALS)


GOOD: dict[str, Any] = {"steer_id": "a", "steer_handoff": 1}


@pytest.mark.parametrize(
    ("xargs", "named"),
    [
        ({"steer_id": "a"}, "steer_handoff"),
        ({"steer_handoff": 1}, "steer_id"),
        (GOOD | {"steer_id": ""}, "steer_id"),
        (GOOD | {"steer_id": 5}, "steer_id"),
        (GOOD | {"steer_id": "x" * 129}, "steer_id"),
        (GOOD | {"steer_handoff": -1}, "steer_handoff"),
        (GOOD | {"steer_handoff": 1.0}, "steer_handoff"),
        (GOOD | {"steer_handoff": True}, "steer_handoff"),
        (GOOD | {"steer_handoff": 2**31}, "steer_handoff"),
        (GOOD | {"steer_step": "1"}, "steer_step"),
        (GOOD | {"steer_max_step": 0}, "steer_max_step"),
        (GOOD | {"steer_max_step": [3]}, "steer_max_step"),
        (GOOD | {"steer_delimiter": ""}, "steer_delimiter"),
        (GOOD | {"steer_signal": "logit"}, "steer_signal"),
        (GOOD | {"steer_signal": ["entropy"]}, "steer_signal"),
        (GOOD | {"steer_score": "max"}, "steer_score"),
        (GOOD | {"steer_before": 0.5}, "steer_before"),
        (GOOD | {"steer_before": "0.5"}, "steer_before"),
        (GOOD | {"steer_after": "1:2;"}, "steer_after"),
        (GOOD | {"steer_after": "nan:2"}, "steer_after"),
        (GOOD | {"steer_after": ";".join(["1:2"] * 17)}, "steer_after"),
        (GOOD | {"steer_after": "1:2,3:4,5:6,7:8,9:10"}, "steer_after"),
        (GOOD | {"steer_after": "1:2" + "," * 5000}, "steer_after"),
        (GOOD | {"steer_treshold": 1}, "steer_treshold"),
        ({"steer_threshold": 1}, "steer_threshold"),
    ],
)
def test_a_malformed_argument_is_named_in_one_sentence(xargs: dict[str, Any], named: str) -> None:
    with pytest.raises(SteerError) as caught:
        GateArgs.read(xargs)
    assert named in str(caught.value)
    assert len(str(caught.value)) < 300


def params(**given: Any) -> SimpleNamespace:
    """``SamplingParams`` of vLLM, as far as the gate looks."""
    return SimpleNamespace(**{"extra_args": GOOD, "stop_token_ids": [3, 1], "n": 1} | given)


def test_a_request_that_the_gate_can_follow_passes() -> None:
    check_request(params())
    check_request(params(n=4, extra_args=None, logit_bias={1: 2.0}))  # none of the gate's
    check_request(params(frequency_penalty=0.0, repetition_penalty=1.0, bad_words=[], min_tokens=0))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"stop_token_ids": None}, "stop_token_ids"),
        ({"stop_token_ids": [3]}, "stop_token_ids"),
        ({"n": 2}, "n"),
        ({"frequency_penalty": 0.1}, "frequency_penalty"),
        ({"presence_penalty": -1.0}, "presence_penalty"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"logit_bias": {7: -3.0}}, "logit_bias"),
        ({"bad_words": ["a"]}, "bad_words"),
        ({"allowed_token_ids": [1, 2]}, "allowed_token_ids"),
        ({"structured_outputs": object()}, "structured_outputs"),
        ({"extra_args": GOOD | {"steer_step": -1}}, "steer_step"),
    ],
)
def test_a_request_that_it_cannot_follow_is_refused_by_name(
    given: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=rf"\b{named}\b"):
        check_request(params(**given))


def test_the_probe_is_told_from_servers_without_a_gate() -> None:
    with pytest.raises(SteerError) as caught:
        GateArgs.read(dict(PROBE))
    body = json.dumps({"error": {"message": str(caught.value), "code": 400}})
    assert is_gated(400, body)
    assert not is_gated(200, body)
    assert not is_gated(400, '{"error": {"message": "no such model"}}')


def test_policies_that_numbers_do_not_tell_have_no_arguments() -> None:
    assert GateArgs.from_policy(RandomShare(), "small", id="a", handoff=1) is None
    args = GateArgs.from_policy(Steer(threshold=15.3), "small", id="a", handoff=1, step=2)
    assert args == GateArgs("a", 1, GateRule(after=(Region.at_least(15.3),)), step=2)
    args = GateArgs.from_policy(FirstTokenEntropy(0.5), "small", id="a", handoff=1)
    assert args == GateArgs("a", 1, GateRule("entropy", before=Region.at_most(0.5)))


def test_neither_torch_nor_vllm_is_imported() -> None:
    code = (
        "import sys, steer_decode.engines.vllm.gate_args as g;"
        "g.GateArgs('a', 1).xargs; print({'torch', 'vllm', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
