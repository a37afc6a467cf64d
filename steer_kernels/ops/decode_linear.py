"""`decode_linear`: linear layers of any number of tokens.

On the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steer_kernels import reference
from steer_kernels.ops._autograd import has_tangent
from steer_kernels.ops._layers import check_tensors
from steer_kernels.ops._register import checked, register

_SCHEMA = "(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor"


def decode_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` for decode steps and parts of prompts.

        out[..., n] = sum_k x[..., k] weight[n, k] + bias[n]

    Of a few tokens the time is that of reading the weights: they are read once, from front to back,
    for up to 120 tokens at a time. Dtypes are read natively and summed in float32, always in the
    same order: an output has bitwise the same value beside any other tokens and on any number of
    threads. There is no gradient.

    On processors with AVX512-BF16 products of bfloat16 use it, which takes subnormal numbers for 0.

    Args:
        x: [..., K] float32, bfloat16 or float16 on the CPU; any strides.
        weight: [N, K], dtype of `x`; last dimension contiguous.
        bias: [N], dtype of `x`, any stride; or None.

    Returns:
        [..., N], contiguous, in the dtype of `x`.

    Raises:
        TypeError: an argument is no tensor, or has another dtype.
        ValueError: another rank, size, layout, device or stride; an argument that requires a
            gradient while gradients are enabled, or carries a forward-mode one.
    """
    try:
        if torch.is_grad_enabled() and (
            x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
        ):
            raise RuntimeError
        if has_tangent(x, weight, bias):
            raise RuntimeError
        return _op(x, weight, bias)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        # The kernel has checked everything; this only finds a better-typed error, where a decode
        # step does not pay for it.
        _check(x, weight, bias)
        raise


def _check(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    given = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    check_tensors(given, "torch.nn.functional.linear")
    if weight.ndim != 2 or weight.shape[1] < 1:
        raise ValueError(f"weight must have shape [N, K], K >= 1, got {list(weight.shape)}")
    if weight.shape[1] > 1 and weight.stride(1) != 1:
        raise ValueError(
            f"weight must be contiguous in the last dimension, got strides {list(weight.stride())}"
        )
    if x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"x must have shape [..., {weight.shape[1]}] (columns of weight), got {list(x.shape)}"
        )
    if bias is not None and list(bias.shape) != [weight.shape[0]]:
        raise ValueError(
            f"bias must have shape [{weight.shape[0]}] (rows of weight), got {list(bias.shape)}"
        )


def _empty(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


_fallback = checked(_check, reference.decode_linear)
_op = register("decode_linear", _SCHEMA, cpu=_fallback, fake=checked(_check, _empty))
