"""`rms_norm`: the norm of Llama, on the CPU.

Its kin have it too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steer_kernels import reference
from steer_kernels.ops._autograd import has_tangent
from steer_kernels.ops._layers import check_tensors
from steer_kernels.ops._register import checked, register

_SCHEMA = "(Tensor x, Tensor weight, float epsilon) -> Tensor"


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root mean square layer normalization (Zhang and Sennrich, arXiv 1910.07467).

        out[..., i] = weight[i] y[..., i],  y = x / sqrt(mean(x^2) + epsilon)

    One operator where transformers has six. Sums and products are in float32, and y is rounded to
    the dtype of `x` before it is multiplied, as there. A row has bitwise the same value beside any
    others. There is no gradient.

    Args:
        x: [..., K] float32, bfloat16 or float16 on the CPU; any strides.
        weight: [K], dtype of `x`, contiguous.
        epsilon: at least 0.

    Returns:
        [..., K], contiguous, in the dtype of `x`.

    Raises:
        TypeError: an argument is no tensor, or has another dtype.
        ValueError: another rank, size, layout, device or stride; a negative `epsilon`; an argument
            that requires a gradient while gradients are enabled, or carries a forward-mode one.
    """
    try:
        if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            raise RuntimeError
        if has_tangent(x, weight):
            raise RuntimeError
        return _op(x, weight, epsilon)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        # The kernel has checked everything; this only finds a better-typed error, where a decode
        # step does not pay for it.
        _check(x, weight, epsilon)
        raise


def _check(x: Tensor, weight: Tensor, epsilon: float) -> None:
    check_tensors({"x": x, "weight": weight}, "torch.nn.functional.rms_norm")
    if weight.ndim != 1 or weight.shape[0] < 1 or not weight.is_contiguous():
        raise ValueError(
            f"weight must be contiguous, of shape [K], K >= 1, got {list(weight.shape)} with "
            f"strides {list(weight.stride())}"
        )
    if x.ndim < 1 or x.shape[-1] != weight.shape[0]:
        raise ValueError(
            f"x must have shape [..., {weight.shape[0]}] (size of weight), got {list(x.shape)}"
        )
    if not isinstance(epsilon, (int, float)):
        raise TypeError(f"epsilon must be a number, got {type(epsilon).__name__}")
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be at least 0, got {epsilon}")


def _empty(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x.new_empty(x.shape)


_fallback = checked(_check, reference.rms_norm)
_op = register("rms_norm", _SCHEMA, cpu=_fallback, fake=checked(_check, _empty))
