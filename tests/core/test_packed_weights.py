"""Quantized weights count as many as they are, and as the bytes that are held."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from steer_decode.core.shape import ModelShape
from steer_decode.core.weights import count_parameters, held_bytes, read_weights
from support.mixtures import WIDE, E, H, gated, mixture
from support.tiny import make_model
from torch import nn


class Packed(nn.Module):
    """A linear layer that keeps its weights in some other form."""

    def __init__(self, linear: nn.Linear, **tensors: torch.Tensor) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.bias = linear.bias


def gptq(linear: nn.Linear) -> nn.Module:
    """Four bits in int32 words down the columns; scales and zeros of groups of 8, group indices."""
    i, o = linear.in_features, linear.out_features
    words = torch.zeros(i // 8, o, dtype=torch.int32)
    scales, zeros = torch.zeros(i // 8, o, dtype=torch.float16), words[:, ::8].clone()
    index = torch.zeros(i, dtype=torch.int32)
    return Packed(linear, qweight=words, scales=scales, qzeros=zeros, g_idx=index)


def awq(linear: nn.Linear) -> nn.Module:
    """Four bits in int32 words along the rows; groups of 16."""
    i, o = linear.in_features, linear.out_features
    words = torch.zeros(i, o // 8, dtype=torch.int32)
    scales = torch.zeros(i // 16, o, dtype=torch.float16)
    return Packed(linear, qweight=words, scales=scales, qzeros=words[::16].clone())


def compressed(linear: nn.Linear) -> nn.Module:
    """compressed-tensors: a linear layer whose weight is replaced by words, scale and shape."""
    i, o = linear.in_features, linear.out_features
    packed = nn.Linear(i, o, bias=False)
    del packed.weight
    packed.weight_packed = nn.Parameter(torch.zeros(o, i // 8, dtype=torch.int32), False)
    packed.weight_scale = nn.Parameter(torch.zeros(o, i // 8, dtype=torch.bfloat16), False)
    packed.weight_shape = nn.Parameter(torch.tensor([o, i]), False)
    return packed


def fp8(linear: nn.Linear) -> nn.Module:
    """Eight-bit floats with a scale for each block of 16 by 16."""
    i, o = linear.in_features, linear.out_features
    packed = nn.Linear(i, o, bias=False)
    packed.weight = nn.Parameter(torch.zeros(o, i).to(torch.float8_e4m3fn), False)
    packed.weight_scale_inv = nn.Parameter(torch.zeros(-(-o // 16), -(-i // 16)), False)
    return packed


# Bytes of a matrix of i by o, by hand.
LAYOUTS: dict[Callable[[nn.Linear], nn.Module], Callable[[int, int], int]] = {
    gptq: lambda i, o: i * o // 2 + i // 8 * o * 2 + i // 8 * (o // 8) * 4 + i * 4,
    awq: lambda i, o: i * o // 2 + i // 16 * o * 2 + i // 16 * (o // 8) * 4,
    compressed: lambda i, o: i * o // 2 + o * (i // 8) * 2 + 2 * 8,
    fp8: lambda i, o: i * o + -(-o // 16) * -(-i // 16) * 4,
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_packed_weights_count_as_many_as_they_are_and_as_bytes_that_are_held(layout: Any) -> None:
    model = make_model("qwen2", 0)  # its queries, keys and values have biases
    plain, shapes = ModelShape.of(model), []
    for parent in list(model.model.layers.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                shapes.append((child.in_features, child.out_features))
                biases = child.bias is not None and layout in (compressed, fp8)
                packed = layout(child)
                packed.bias = child.bias if biases else packed.bias
                setattr(parent, name, packed)
    shape = ModelShape.of(model)
    for name in ("parameters", "active", "body", "head", "activations", "weight_bytes"):
        assert getattr(shape, name) == getattr(plain, name)
    matrices = sum(LAYOUTS[layout](i, o) for i, o in shapes)
    assert shape.dense_bytes == matrices + 4 * shape.head
    assert shape.held_bytes == matrices + 4 * (shape.parameters - shape.body)


def test_dynamically_quantized_layers_hold_a_byte_a_weight() -> None:
    model = make_model("llama", 0)
    plain = ModelShape.of(model)
    with warnings.catch_warnings():  # torch is giving it up
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    shape = ModelShape.of(quantized)
    assert (shape.parameters, shape.body, shape.head) == (plain.parameters, plain.body, plain.head)
    assert shape.dense_bytes == shape.body + shape.head
    assert shape.held_bytes == shape.dense_bytes + 4 * (shape.parameters - shape.body - shape.head)
    assert shape.cache_bytes(1) == plain.cache_bytes(1)


def test_torchao_holds_a_byte_a_weight_and_scales() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = make_model("llama", 0)
    plain = ModelShape.of(model)
    quantization.quantize_(model.model, quantization.Int8WeightOnlyConfig())
    shape = ModelShape.of(model)
    assert (shape.parameters, shape.body) == (plain.parameters, plain.body)
    rows = sum(m.out_features for m in model.model.modules() if isinstance(m, nn.Linear))
    assert shape.body <= shape.dense_bytes - 4 * shape.head <= shape.body + 8 * rows + 4


def test_bitsandbytes_holds_half_a_byte_a_weight_and_scales() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    linear = nn.Linear(64, 128, bias=True)
    four = bitsandbytes.nn.Linear4bit(64, 128, quant_type="nf4", compress_statistics=False)
    four.load_state_dict(linear.state_dict())
    four = four.to("cpu")
    assert count_parameters(four) == 64 * 128 + 128
    # A float32 scale for each 64 weights, and a table of 16 float32.
    assert held_bytes(four) == 64 * 128 // 2 + 4 * 128 + 64 + 4 * 128


def test_packed_experts_are_counted_in_weights() -> None:
    """MXFP4 as gpt-oss has it: two weights in a byte, a scale of a byte for each 32."""
    model = mixture("gpt_oss")
    plain = read_weights(model)
    for layer in model.model.layers:
        experts = layer.mlp.experts
        for name, inputs, outputs in (("gate_up_proj", H, 2 * WIDE), ("down_proj", WIDE, H)):
            delattr(experts, name)
            packed = torch.zeros(E, outputs, inputs // 2, dtype=torch.uint8)
            scales = torch.zeros(E, outputs, inputs // 32, dtype=torch.uint8)
            setattr(experts, f"{name}_blocks", nn.Parameter(packed, False))
            setattr(experts, f"{name}_scales", nn.Parameter(scales, False))
    weights = read_weights(model)
    assert (weights.parameters, weights.active) == (plain.parameters, plain.active)
    (experts,) = weights.experts
    assert experts.weights == gated(WIDE)
    assert experts.nbytes == gated(WIDE) / 2 + gated(WIDE) / 32
