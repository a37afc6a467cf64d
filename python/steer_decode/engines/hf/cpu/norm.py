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

from .linear import here

MOST_ELEMENTS = 16 * 1024  # in 16 bits; beyond, torch's conversions are faster
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_rms_norm = torch.ops.steer_kernels.rms_norm.default


def _code(function: Any) -> tuple[object, ...]:
    code = function.__code__
    return code.co_code, code.co_consts, code.co_names


_LLAMA = _code(LlamaRMSNorm.forward)


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
    own = type(module).forward
    if getattr(own, "__code__", None) is None or _code(own) != _LLAMA:
        return False
    replaced = vars(module).get("forward")  # by us, in a pass of another thread?
    weight = module.weight
    return (
        (replaced is None or getattr(replaced, "__func__", None) is forward)
        and type(weight) is nn.Parameter
        and weight.device.type == "cpu"
        and weight.dtype in _DTYPES
        and weight.is_contiguous()
        and isinstance(module.variance_epsilon, float)
    )
