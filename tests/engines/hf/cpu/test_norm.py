"""Passes whose norms are one operator: which, and that nobody else notices."""

from __future__ import annotations

import pytest
import torch
from steer_decode.core.shape import ModelShape
from steer_decode.core.transcript import Transcript
from steer_decode.engines.hf.cpu import linear, norm
from steer_decode.engines.hf.lane import Lane
from support.backends import needs_cpu_layers
from support.tiny import FAMILIES, make_model, prompt_ids
from torch import Tensor, nn
from transformers import PreTrainedModel

ALL = (*FAMILIES, "olmo3")
LIKE_LLAMA = ("llama", "qwen2", "qwen3", "mistral", "phi3")
pytestmark = needs_cpu_layers


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each call of the operator."""
    calls = []

    def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        calls.append(x.shape[1])
        return torch.ops.steer_kernels.rms_norm(x, weight, epsilon)

    monkeypatch.setattr(norm, "_rms_norm", rms_norm)
    return calls


def norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module).__name__.endswith("Norm")]


def logits_of(model: PreTrainedModel) -> list[Tensor]:
    """Behind a prompt, and behind a token more."""
    text = Transcript(prompt_ids(1, 20))
    lane = Lane(model, ModelShape.of(model), [text])
    found = [lane.catch_up().clone()]
    text.append(7, "small")
    return [*found, lane.catch_up().clone()]


@pytest.mark.parametrize("family", ALL)
def test_every_norm_of_the_kind(
    family: str, counted: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(family, 0)
    ours = logits_of(model)
    assert len(counted) == (2 * len(norms(model)) if family in LIKE_LLAMA else 0)
    counted.clear()
    monkeypatch.setattr(norm, "served", lambda module: False)
    plain = logits_of(model)
    assert not counted
    torch.testing.assert_close(ours, plain, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_norm_of_sixteen_bits_is_that_of_transformers(dtype: torch.dtype, counted: list) -> None:
    layer = norms(make_model("llama", 0).to(dtype))[0]
    weight = torch.empty_like(layer.weight).uniform_(0.5, 1.5)
    layer.weight.data.copy_(weight)
    x = torch.randn(50, 3, weight.shape[0]).to(dtype)
    with torch.no_grad():
        plain = layer(x)
        linear.here.in_pass = True
        try:
            ours = norm.forward(layer, x)
        finally:
            linear.here.in_pass = False
    assert counted
    # The sum of squares in another order moves a few roundings.
    assert (ours != plain).float().mean() < 0.01
    torch.testing.assert_close(ours, plain, atol=0, rtol=2 * torch.finfo(dtype).eps)


def test_many_numbers_of_sixteen_bits_stay(counted: list, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama", 0).to(torch.bfloat16)
    monkeypatch.setattr(norm, "MOST_ELEMENTS", model.config.hidden_size)
    logits_of(model)
    assert counted == [1] * len(norms(model))  # of the pass over one token
    counted.clear()
    logits_of(make_model("llama", 0))
    assert len(counted) == 2 * len(norms(model))


def test_a_norm_that_is_replaced_stays(counted: list) -> None:
    model = make_model("llama", 0)
    seen = []
    first, *rest = norms(model)
    original = first.forward
    first.forward = lambda x: seen.append(0) or original(x)
    logits_of(model)
    assert seen == [0, 0]
    assert len(counted) == 2 * len(rest)


def test_outside_of_passes_the_model_is_as_it_was(counted: list) -> None:
    model = make_model("llama", 0)
    seen = []
    norms(model)[0].register_forward_hook(lambda *_: seen.append(0))
    logits_of(model)
    assert seen == [0, 0]
    assert not any("forward" in vars(module) for module in model.modules())
    counted.clear()
    with torch.no_grad():
        model(torch.tensor([prompt_ids(1, 9)]))
    assert not counted
