"""Linear layers on a CPU: by `decode_linear`.

It reads at the memory's speed. torch's matrix product of one to sixteen tokens reaches a half or a
third of what the memory gives, and of hundreds not quite what the processor does. Layers of other
types (quantized, adapted, parametrized), or whose ``forward`` somebody has replaced already, stay
as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

import steer_kernels  # noqa: F401  (makes the operators)

from ..replaced import here, is_own
from ..watched import watched

# Of a product in bfloat16: beyond, torch's is as fast, and has matrix units where there are any.
MOST_TOKENS = 64
LEAST_WEIGHTS = 8 * 1024  # of a layer; below, the call is what costs
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_multiply = torch.ops.steer_kernels.decode_linear.default


def forward(layer: nn.Linear, x: Tensor) -> Tensor:
    """Of a linear layer, in a pass or not."""
    weight, bias = layer.weight, layer.bias
    if torch.compiler.is_compiling():  # which makes its own of it
        return linear(x, weight, bias)
    if (
        here.in_pass
        and x.dtype is weight.dtype
        and (x.dtype is not torch.bfloat16 or x.numel() <= MOST_TOKENS * x.shape[-1])
        and not watched()
    ):
        product: Tensor = _multiply(x, weight, bias)
        return product
    return linear(x, weight, bias)


def served(module: nn.Module) -> bool:
    """Whether :func:`forward` can take the place of a layer's own."""
    if type(module) is not nn.Linear:
        return False
    weight = module.weight
    return (
        is_own(module, forward)
        and type(weight) is nn.Parameter  # subclasses of tensors may hold anything
        and weight.layout is torch.strided
        and weight.device.type == "cpu"
        and weight.dtype in _DTYPES
        and weight.is_contiguous()
        and weight.numel() >= LEAST_WEIGHTS
    )
