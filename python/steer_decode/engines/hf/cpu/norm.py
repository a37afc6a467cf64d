"""Norms on a CPU: by `rms_norm`.

One operator takes the place of the six of a norm of the Llama kind. To call six takes longer than
to run them: a sixth of a token of the demo's small model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import steer_kernels  # noqa: F401  (makes the operators)

from ..replaced import here, is_own
from ..same_code import code_of

MOST_ELEMENTS = 16 * 1024  # in 16 bits; beyond, torch's conversions are faster
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_rms_norm = torch.ops.steer_kernels.rms_norm.default


_LLAMA = code_of(LlamaRMSNorm.forward)


def forward(layer: Any, x: Tensor) -> Tensor:
    """Of a norm, in a pass or not."""
    weight = layer.weight
    if (
        here.in_pass
        and x.dtype is weight.dtype
        and (x.dtype is torch.float32 or x.numel() <= MOST_ELEMENTS)
        and not torch.compiler.is_compiling()
    ):
        out: Tensor = _rms_norm(x, weight, layer.variance_epsilon)
    else:
        out = type(layer).forward(layer, x)
    return out


def served(module: nn.Module) -> bool:
    """Whether :func:`forward` can take the place of a layer's own.

    Each family of transformers has a class of its own, most of them to the letter that of Llama.
    """
    if code_of(type(module).forward) != _LLAMA:
        return False
    weight = module.weight
    return (
        is_own(module, forward)
        and type(weight) is nn.Parameter
        and weight.device.type == "cpu"
        and weight.dtype in _DTYPES
        and weight.is_contiguous()
        and isinstance(module.variance_epsilon, float)
    )
