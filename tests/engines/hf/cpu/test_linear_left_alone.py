"""Whom passes with decode_linear leave alone: the model between them, other threads, odd layers."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from functools import partial

import pytest
import torch
from steer_decode.engines.hf import swapped
from steer_decode.engines.hf.cpu import linear
from support.backends import needs_cpu_layers
from support.products import lane_of, linears
from support.tiny import make_model, prompt_ids
from torch import Tensor, nn
from transformers import PreTrainedModel

pytestmark = needs_cpu_layers


def test_outside_of_passes_the_model_is_as_it_was(products: list) -> None:
    model = make_model("llama", 0)
    seen = []
    layer = linears(model)[0]
    layer.register_forward_hook(lambda *_: seen.append("forward" in vars(layer)))
    lane = lane_of(model, 9)
    lane.catch_up()
    assert seen == [True]
    assert products
    assert not any("forward" in vars(module) for module in model.modules())
    products.clear()
    with torch.no_grad():
        model(torch.tensor([prompt_ids(1, 9)]))
    assert seen == [True, False]
    assert not products
    pickle.loads(pickle.dumps(linears(model)[1]))
    copy.deepcopy(model)


def test_a_pass_that_fails_leaves_nothing_behind(products: list) -> None:
    model = make_model("llama", 0)
    handle = linears(model)[3].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lane_of(model).catch_up()
    handle.remove()
    assert not any("forward" in vars(module) for module in model.modules())
    assert not swapped._passes
    assert not linear.here.in_pass


def test_another_thread_gets_torchs_product_meanwhile(products: list) -> None:
    model = make_model("llama", 0)
    ids = torch.tensor([prompt_ids(1, 9)])
    with torch.no_grad():
        expected = model(ids).logits
    found: list[Tensor] = []
    counted: list[int] = []

    def other() -> None:
        with torch.no_grad():
            found.append(model(ids).logits)

    def meanwhile(*_: object) -> None:
        if threading.current_thread() is threading.main_thread() and not found:
            before = len(products)
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            counted.append(len(products) - before)

    linears(model)[2].register_forward_hook(meanwhile)
    lane_of(model, 9).catch_up()
    assert counted == [0]
    assert torch.equal(found[0], expected)


def test_passes_of_two_threads_over_one_model(products: list) -> None:
    """The second begins within the first and ends after it."""
    model = make_model("llama", 0)
    begun, go_on = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            go_on.wait(10)

    linears(model)[2].register_forward_hook(wait)
    expected = lane_of(model, 9).catch_up()
    results: list[Tensor] = []
    thread = threading.Thread(target=lambda: results.append(lane_of(model, 9).catch_up()))
    thread.start()
    assert begun.wait(10)
    products.clear()
    assert torch.equal(lane_of(model, 9).catch_up(), expected)
    assert len(products) == len(linears(model))
    assert any("forward" in vars(module) for module in model.modules())
    go_on.set()
    thread.join()
    assert torch.equal(results[0], expected)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_layer_that_is_replaced_between_passes_keeps_what_it_was_given(products: list) -> None:
    model = make_model("llama", 0)
    lane = lane_of(model)
    lane.catch_up()
    _replaced(model)
    replacement = vars(linears(model)[0])["forward"]
    products.clear()
    lane.transcript().append(7, "small")
    lane.catch_up()
    assert len(products) == len(linears(model)) - 1
    assert vars(linears(model)[0])["forward"] is replacement


def test_passes_that_put_different_things_into_a_model_leave_nothing_behind() -> None:
    model, there = nn.Linear(1, 1), set()
    one, two = (
        swapped.Swapped(model, partial(there.add, name), partial(there.discard, name))
        for name in ("one", "two")
    )
    with two:
        with one, one:
            assert there == {"one", "two"}
        assert there == {"one", "two"}, "the last pass takes out what was put in"
    assert not there


class Adapted(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1.0


def _replaced(model: PreTrainedModel) -> None:
    layer = linears(model)[0]
    original = layer.forward
    layer.forward = lambda x: original(x) + 1.0  # type: ignore[method-assign]


class Quantized(Tensor):
    """As libraries of quantization put weights of their own into plain layers."""


def _quantized(model: PreTrainedModel) -> None:
    layer = linears(model)[0]
    twice = nn.Parameter((2.0 * layer.weight.detach()).as_subclass(Quantized))
    layer.weight = twice


def _adapted(model: PreTrainedModel) -> None:
    linears(model)[0].__class__ = Adapted


@pytest.mark.parametrize("change", [_replaced, _adapted, _quantized])
def test_layers_that_are_not_plain_stay_as_they_are(
    change: Callable[[PreTrainedModel], None], products: list
) -> None:
    model = make_model("llama", 0)
    before = lane_of(model, 9).catch_up()
    count = len(products)
    change(model)
    after = lane_of(model, 9).catch_up()
    assert len(products) == 2 * count - 1
    assert not torch.allclose(before, after)
    with torch.no_grad():
        expected = model(torch.tensor([prompt_ids(1, 9)])).logits[:, -1]
    torch.testing.assert_close(after, expected, atol=2e-4, rtol=1e-4)


def test_autocast_is_left_to_torch(products: list) -> None:
    model = make_model("llama", 0)
    with torch.autocast("cpu", torch.bfloat16):
        lane_of(model, 9).catch_up()
    assert not products


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False], ids=["model", "forward"])
def test_compiled_models_are_left_to_the_compiler(whole: bool, products: list) -> None:
    torch._dynamo.reset()
    model = make_model("llama", 0)
    before = lane_of(model, 9).catch_up()
    products.clear()
    if whole:
        model.compile(backend="eager")
    else:
        model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    lane = lane_of(model, 9)
    torch.testing.assert_close(lane.catch_up(), before, atol=2e-4, rtol=1e-4)
    lane.transcript().append(3, "small")
    assert lane.catch_up().isfinite().all()
