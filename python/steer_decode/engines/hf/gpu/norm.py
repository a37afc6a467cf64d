"""The residual's sum and the norm behind it, one kernel.

A layer of Llama's kind ends each of its halves with a sum, and what comes next is the norm of that
sum. So who adds, norms as well (:func:`add`), and what comes out waits until the norm is called:
with that very sum it gives what waits, with anything else it computes its own. No module is passed
over, and whatever a user has put between the two is seen.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from steer_kernels import layers

from ..replaced import here, in_pass, is_own, is_replaced
from ..same_code import code_of

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_LLAMA = code_of(LlamaRMSNorm.forward)


class _Ahead(NamedTuple):
    total: Tensor
    version: int | None  # of what is in it
    norm: nn.Module
    normed: Tensor


def _version(x: Tensor) -> int | None:
    return None if x.is_inference() else x._version


def forward(norm: Any, x: Tensor) -> Tensor:
    """Of a norm, in a pass or not."""
    ahead: _Ahead | None = here.ahead if in_pass() else None
    if ahead is not None and ahead.total is x and ahead.norm is norm:
        here.ahead = None
        if ahead.version == _version(x):
            return ahead.normed
    out: Tensor = type(norm).forward(norm, x)
    return out


def add(x: Tensor, residual: Tensor, norm: Any) -> Tensor:
    """residual + x, to be given to ``norm`` next.

    ``norm`` is a module, or None.
    """
    if norm is not None and is_replaced(norm, forward) and _alike(x, residual, norm.weight):
        total, normed = layers.add_rms_norm(x, residual, norm.weight, norm.variance_epsilon)
        here.ahead = _Ahead(total, _version(total), norm, normed)
        return total
    return residual + x


def _alike(x: Tensor, residual: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype is residual.dtype is weight.dtype
        and x.shape == residual.shape
        and x.shape[-1] == weight.shape[0]
        and x.device == residual.device == weight.device
        and x.is_contiguous()
        and residual.is_contiguous()
    )


def served(module: nn.Module) -> bool:
    """Whether a norm is to the letter that of Llama."""
    if code_of(type(module).forward) != _LLAMA or not is_own(module, forward):
        return False
    weight = module.weight
    return (
        type(weight) is nn.Parameter
        and weight.dtype in DTYPES
        and weight.is_contiguous()
        and weight.shape[0] <= layers.LONGEST_ROW
        and isinstance(module.variance_epsilon, float)
    )
