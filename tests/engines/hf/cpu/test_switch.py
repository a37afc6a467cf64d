"""STEER_DECODE_CPU=off: no operator of these layers runs, and the tokens are the same."""

from __future__ import annotations

import pytest
import torch
from steer_decode import BothSides, FirstTokenEntropy, Policy, Router, SteerError
from steer_decode.core.shape import ModelShape
from steer_decode.core.transcript import Transcript
from steer_decode.engines.hf.cache import KVCache
from steer_decode.engines.hf.cpu import enabled, patched
from steer_decode.engines.hf.lane import Lane
from support.backends import needs_extension
from support.tiny import make_model, make_pair, prompt_ids, prompt_text
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

OURS = {"decode_attention", "decode_linear", "rms_norm"}


def operators(run: Lane) -> tuple[set[str], Tensor]:
    """Which of our operators ran, and the logits: two prompts together, then a token of each."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run.catch_up((0, 1))
        for row in (0, 1):
            run.transcript(row).append(7, "small")
        logits = run.catch_up((0, 1))
    names = {event.name for event in profiler.events()}
    prefix = "steer_kernels::"
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}, logits


@needs_extension
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_no_operator_of_these_layers_runs_when_they_are_off(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(family, 0, width=128)  # whose linear layers are large enough to be ours
    found = {}
    for switch in ("on", "off"):
        monkeypatch.setenv("STEER_DECODE_CPU", switch)
        texts = [Transcript(prompt_ids(seed, 9 + 20 * seed)) for seed in (0, 1)]
        lane = Lane(model, ModelShape.of(model), texts)
        assert (type(lane.cache) is KVCache) == (switch == "off")
        found[switch], logits = operators(lane)
        if switch == "on":
            expected = logits
    assert found["on"] >= OURS | {"kv_append_"}
    assert found["off"] == found["on"] - OURS
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)


@needs_extension
@pytest.mark.spread
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize(
    "policy", [FirstTokenEntropy(1.5), BothSides(lost=0.3)], ids=lambda policy: policy.name
)
@pytest.mark.few(1)
def test_greedy_tokens_are_the_same_on_and_off(
    family: str, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair(family, 0, width=128)
    prompts = [prompt_text(seed, 5 + 9 * seed) for seed in range(3)]
    written = {}
    for switch in ("on", "off"):
        monkeypatch.setenv("STEER_DECODE_CPU", switch)
        outputs = Router(pair, policy).cohort(prompts, max_new_tokens=40)
        written[switch] = [(out.token_ids, [s.writer for s in out.trace.steps]) for out in outputs]
    assert written["on"] == written["off"]
    assert {writer for _, writers in written["on"] for writer in writers} == {"small", "large"}


@pytest.mark.parametrize("value", ["", "0", "OFF", "no\nyes"])
def test_another_value_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair("llama")
    monkeypatch.setenv("STEER_DECODE_CPU", value)
    for call in (
        enabled,
        lambda: patched(pair.small),
        lambda: Router(pair, FirstTokenEntropy()).generate(prompt_text(0)),
    ):
        with pytest.raises(SteerError) as raised:
            call()
        wrong = f"STEER_DECODE_CPU must be on or off, got {value!r}: unset it, or set either"
        assert str(raised.value) == wrong


def test_they_are_on_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEER_DECODE_CPU", raising=False)
    assert enabled()
