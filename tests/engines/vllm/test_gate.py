"""The gate of either interface, driven by hand, routes as ``Router.generate`` does.

Rows are shuffled, moved and swapped, places used again, requests preempted, prompts read in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import (
    FirstTokenEntropy,
    Pair,
    Policy,
    RoutedOutput,
    Router,
    Steer,
    SteerError,
)
from steer_decode.core.gate_rule import NOWHERE, GateRule, Region
from steer_decode.core.transcript import WRITERS, Writer
from steer_decode.engines.vllm.gate_args import PROBE, GateArgs, is_gated
from support.gate_client import Client, NotJudged, Routed, run, same
from support.hand_engine import Asked, HandEngine, HandV1, HandV2, Logits
from support.tiny import make_pair, prompt_ids
from support.vllm_interfaces import config, gate_v1, gate_v2, parameters

CPU = torch.device("cpu")
HANDOFF: dict[Writer, int] = {"small": 36, "large": 45}  # rows of the heads that are no token's
PROMPTS = [prompt_ids(seed, 4 + seed % 9) for seed in range(7)]
LIMIT = 48


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair("llama")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, pair: Pair) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    pair.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def logits(pair: Pair) -> dict[Writer, Logits]:
    """Of either model behind ids, from scratch, and remembered."""

    def of(writer: Writer) -> Logits:
        known: dict[tuple[int, ...], torch.Tensor] = {}

        def row(ids: Sequence[int]) -> torch.Tensor:
            key = tuple(ids)
            if key not in known:
                with torch.inference_mode():
                    known[key] = pair.model(writer)(torch.tensor([key])).logits[0, -1].float()
            return known[key]

        return row

    return {writer: of(writer) for writer in WRITERS}


Make = Callable[..., HandEngine]


@pytest.fixture(params=["v1", "v2", "v2 with drafts"])
def make(request: pytest.FixtureRequest, tokenizer: Path) -> Make:
    """An engine by hand with the gate of the interface."""
    drafts = 3 if "drafts" in request.param else 0

    def of(logits: Logits, rows: int, seed: int = 0, **more: Any) -> HandEngine:
        columns = len(logits([3]))
        given = config(tokenizer, columns, rows, drafts)
        if request.param == "v1":
            return HandV1(gate_v1.GateV1(given, CPU, False), logits, rows, seed, **more)
        return HandV2(
            lambda states: gate_v2.GateV2(given, states),
            columns,
            logits,
            rows,
            seed,
            drafts=drafts,
            **more,
        )

    return of


ROUTERS = {
    "looks before a step": FirstTokenEntropy(2.0),
    "looks at the margin": FirstTokenEntropy(0.15, "margin"),
    "judges after a step": Steer(threshold=4.6, large_threshold=4.8),
    "judges entropy after a step": Steer(threshold=2.0, signal="entropy"),
}


@pytest.fixture(params=list(ROUTERS))
def policy(request: pytest.FixtureRequest) -> Policy:
    return ROUTERS[request.param]


_WANTED: dict[str, list[RoutedOutput]] = {}


@pytest.fixture
def wanted(pair: Pair, policy: Policy) -> list[RoutedOutput]:
    """What the router writes, with both models in it and steps of either kind taken back."""
    if str(policy) not in _WANTED:
        router = Router(pair, policy)
        _WANTED[str(policy)] = [router.generate(p, max_new_tokens=LIMIT) for p in PROMPTS]
    outs = _WANTED[str(policy)]
    assert sum(out.trace.hand_overs for out in outs) > len(outs)
    return outs


def routed(
    make: Make, pair: Pair, policy: Policy, logits: Any, gated: Sequence[Writer], rows: int
) -> tuple[list[Routed], dict[Writer, HandEngine]]:
    engines = {
        w: make(logits[w], rows, seed=rows)
        if w in gated
        else HandEngine(logits[w], rows, 1, size=34)
        for w in WRITERS
    }
    client = Client(pair, policy, {w: HANDOFF[w] for w in gated}, LIMIT)
    talks = [client.converse(str(i), prompt) for i, prompt in enumerate(PROMPTS)]
    return run(engines, talks, rows), engines


@pytest.mark.parametrize("rows", [1, 5])
def test_the_gate_in_the_small_engine_routes_as_the_router_does(
    make: Make, pair: Pair, policy: Policy, wanted: Any, logits: Any, rows: int
) -> None:
    found, engines = routed(make, pair, policy, logits, ["small"], rows)
    same(found, wanted)
    assert (engines["small"].preempted > 0) == (rows > 1)
    for one, out in zip(found, wanted, strict=True):
        writers = [step.writer for step in out.trace.steps]
        large, calls = writers.count("large"), sum(one.calls.values())
        if policy.looks_ahead:
            assert calls <= 2 * large + 1
        else:
            runs = sum(a == "small" != b for a, b in zip(writers, ["", *writers], strict=False))
            assert one.calls == {"small": runs, "large": large}


def test_with_a_gate_in_both_engines_a_call_is_a_run(
    make: Make, pair: Pair, policy: Policy, wanted: Any, logits: Any
) -> None:
    found, _ = routed(make, pair, policy, logits, WRITERS, 5)
    same(found, wanted)
    for one, out in zip(found, wanted, strict=True):
        calls = sum(one.calls.values())
        if policy.looks_ahead:
            assert calls <= 2 * sum(s.writer == "large" for s in out.trace.steps) + 1
        else:
            assert calls == out.trace.hand_overs + 1


def alone(make: Make, logits: Logits, rule: GateRule, most: int = 40, **more: Any) -> Asked:
    """One request that the gate follows, written to its end."""
    args = GateArgs("one", HANDOFF["small"], rule, **more)
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


def test_a_client_that_is_told_knows(pair: Pair, make: Make, logits: Any) -> None:
    def failing(ids: Sequence[int]) -> torch.Tensor:
        row = logits["small"](ids).clone()
        if len(ids) == 14:
            row[5] = torch.nan
        return row

    engines = {"small": make(failing, 2), "large": HandEngine(logits["large"], 2, 1, size=34)}
    client = Client(pair, Steer(threshold=-99.0), {"small": 36}, LIMIT)
    with pytest.raises(NotJudged):
        run(engines, [client.converse("a", prompt_ids(3, 8))])


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


class Silent(HandV2):
    """On a card, where a wait of the host within the gate is an error."""

    def apply(self, logits: torch.Tensor, context: Any) -> torch.Tensor:
        torch.cuda.set_sync_debug_mode("error")
        try:
            self.gate.apply_staged_writes()
            return super().apply(logits, context)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("drafts", [0, 3])
def test_v2_never_waits_for_the_card(
    tokenizer: Path, pair: Pair, policy: Policy, wanted: Any, logits: Any, drafts: int
) -> None:
    def on_card(rows: Logits, seed: int) -> HandEngine:
        columns = len(rows([3]))
        given = config(tokenizer, columns, 5, drafts)
        gate = lambda states: gate_v2.GateV2(given, states)  # noqa: E731
        device = torch.device("cuda")
        return Silent(gate, columns, rows, 5, seed, drafts=drafts, device=device)

    engines = {writer: on_card(logits[writer], 1) for writer in WRITERS}
    client = Client(pair, policy, dict(HANDOFF), LIMIT)
    talks = [client.converse(str(i), prompt) for i, prompt in enumerate(PROMPTS)]
    same(run(engines, talks, 5), wanted)  # type: ignore[arg-type]
