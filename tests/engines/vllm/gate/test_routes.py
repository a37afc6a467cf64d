"""The gate routes as ``Router.generate`` does, in the small engine and in both.

Rows are shuffled, moved and swapped, places used again, requests preempted, prompts read in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import FirstTokenEntropy, Pair, Policy, RoutedOutput, Router, Steer
from steer_decode.core.transcript import WRITERS, Writer
from support.gate_client import Client, NotJudged, Routed, run, same
from support.hand_engine import HandEngine, HandV2, Logits
from support.tiny import prompt_ids
from support.vllm_interfaces import config, gate_v2

HANDOFF: dict[Writer, int] = {"small": 36, "large": 45}  # rows of the heads that are no token's
PROMPTS = [prompt_ids(seed, 4 + seed % 9) for seed in range(5)]
LIMIT = 36
Make = Callable[..., HandEngine]


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
@pytest.mark.few(2)
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


@pytest.mark.few(3)
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
