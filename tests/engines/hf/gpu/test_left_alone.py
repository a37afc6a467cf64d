"""What a user has changed in a model is what runs, whatever layers are ours."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from steer_decode.core.shape import ModelShape
from steer_decode.core.transcript import Transcript
from steer_decode.engines.hf.gpu import mlp, patched
from steer_decode.engines.hf.lane import Lane
from steer_decode.engines.hf.probe import probe
from support.tiny import make_model, prompt_ids
from torch import Tensor, nn
from transformers import PreTrainedModel

from steer_kernels import layers

pytestmark = pytest.mark.usefixtures("as_on_a_card")


def logits_of(model: PreTrainedModel, between: Callable[[], None] = lambda: None) -> Tensor:
    """Behind a prompt, and behind a token more."""
    text = Transcript(prompt_ids(1, 20))
    lane = Lane(model, ModelShape.of(model), [text])
    between()
    found = [lane.catch_up().clone()]
    text.append(7, "small")
    return torch.cat([*found, lane.catch_up().clone()])


def assert_as_it_is(model: PreTrainedModel, between: Callable[[], None] = lambda: None) -> None:
    """The engine's logits are those of the model as it is now."""
    found = logits_of(model, between)
    with torch.no_grad():
        plain = model(torch.tensor([[*prompt_ids(1, 20), 7]])).logits[0, -2:]
    torch.testing.assert_close(found, plain, atol=2e-5, rtol=2e-5)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What ran in one kernel."""
    seen, kernel = [], layers._kernel

    def noted(name: str, like: Tensor) -> Any:
        seen.append(name)
        return kernel(name, like)

    monkeypatch.setattr(layers, "_kernel", noted)
    return seen


class Doubled(nn.Module):
    """A layer, and more: as adapters are."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return 2 * self.inner(*args, **kwargs)


def halved(module: nn.Module, args: Any, out: Any) -> None:
    """A hook that works in place."""
    (out[0] if isinstance(out, tuple) else out).mul_(0.5)


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.inner(*args, **kwargs)


@pytest.mark.parametrize(
    "place", ["q_proj", "input_layernorm", "post_attention_layernorm", "mlp", "act_fn", "q_norm"]
)
def test_layers_that_somebody_has_wrapped(place: str, fused: list[str]) -> None:
    model = make_model("qwen3", 0)
    layer = model.model.layers[1]
    owner = {"q_proj": layer.self_attn, "q_norm": layer.self_attn, "act_fn": layer.mlp}
    owner = owner.get(place, layer)
    setattr(owner, place, Doubled(getattr(owner, place)))
    assert_as_it_is(model)
    assert fused


@pytest.mark.parametrize("place", ["mlp", "act_fn", "q_norm", "post_attention_layernorm", "norm"])
def test_layers_that_are_wrapped_while_a_lane_is_open(place: str) -> None:
    model = make_model("qwen3", 0)
    layer = model.model.layers[0]
    owner = {"act_fn": layer.mlp, "q_norm": layer.self_attn, "norm": model.model}.get(place, layer)

    def wrap() -> None:
        setattr(owner, place, Doubled(getattr(owner, place)))

    assert_as_it_is(model, wrap)


@pytest.mark.parametrize("place", ["self_attn", "mlp", "input_layernorm"])
def test_a_forward_that_is_replaced_stays(place: str) -> None:
    model = make_model("llama", 0)
    module = getattr(model.model.layers[1], place)
    original, seen = module.forward, []

    def forward(*args: Any, **kwargs: Any) -> Any:
        seen.append(0)
        return original(*args, **kwargs)

    module.forward = forward
    logits_of(model)
    assert seen == [0, 0]
    assert module.forward is forward


class Sub(nn.SiLU):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1.0


def test_another_activation_stays() -> None:
    model = make_model("llama", 0)
    for layer in model.model.layers:
        layer.mlp.act_fn = Sub()
        assert not mlp.served(layer.mlp)
    assert_as_it_is(model)


@pytest.mark.parametrize("place", ["layer", "attention", "mlp", "norm", "act_fn"])
def test_hooks_see_and_change_what_they_would(place: str, fused: list[str]) -> None:
    """In place too, behind which a norm that was made ahead would be stale."""
    model = make_model("llama", 0)
    layer = model.model.layers[0]
    module = {
        "layer": layer, "attention": layer.self_attn, "mlp": layer.mlp,
        "norm": layer.post_attention_layernorm, "act_fn": layer.mlp.act_fn,
    }[place]  # fmt: skip
    seen = []

    def hook(module: nn.Module, args: Any, out: Any) -> None:
        seen.append(0)
        halved(module, args, out)

    handle = module.register_forward_hook(hook)
    assert_as_it_is(model)
    assert seen == [0, 0, 0]
    assert not fused
    handle.remove()
    assert_as_it_is(model)
    assert fused


def test_a_sum_that_changes_in_place_is_normed_anew() -> None:
    """By a hook of a module that has come since the lane was opened."""
    model = make_model("llama", 0)

    def wrap() -> None:
        layer = model.model.layers[0]
        model.model.layers[0] = Wrapped(layer)
        model.model.layers[0].register_forward_hook(halved)

    assert_as_it_is(model, wrap)


def test_outside_of_passes_the_model_is_as_it_was(fused: list[str]) -> None:
    model = make_model("llama", 0)
    logits_of(model)
    assert not any("forward" in vars(module) for module in model.modules())
    fused.clear()
    with torch.no_grad():
        model(torch.tensor([prompt_ids(1, 9)]))
    assert not fused


def test_another_thread_gets_what_it_would_get(fused: list[str]) -> None:
    model = make_model("llama", 0)
    call = patched(model)
    ids, found = torch.tensor([prompt_ids(1, 9)]), []
    plain = model(ids).logits

    def elsewhere() -> None:
        with torch.no_grad():
            found.append(model(ids).logits)

    with call._ours:  # a pass of this thread
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert torch.equal(found[0], plain)
    assert not fused


def test_gradients_and_autocast_are_left_to_torch(fused: list[str]) -> None:
    call = patched(make_model("llama", 0))
    ids = torch.tensor([prompt_ids(1, 9)])
    assert call(input_ids=ids).logits.requires_grad
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        call(input_ids=ids)
    assert not fused


def test_a_model_that_differs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the probe, which then leaves the layers to transformers."""
    assert probe(make_model("llama", 0)).serving.direct
    product = layers.silu_mul
    monkeypatch.setattr(layers, "silu_mul", lambda gate, up: 1.1 * product(gate, up))
    found = probe(make_model("llama", 1))
    assert not found.problems
    assert not found.serving.direct
    assert found.cohort
