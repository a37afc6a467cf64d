"""`decode_linear`: a linear layer for a few tokens and for many, on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from steer_kernels import reference
from steer_kernels._extension import extension
from steer_kernels.ops._autograd import has_tangent
from steer_kernels.ops._layers import check_tensors

_NAME = "steer_kernels::decode_linear"
_SCHEMA = "(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor"


def decode_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` for the tokens of a decode step, or of a part of a prompt.

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


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
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


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    _check(x, weight, bias)
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _fallback(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Stands in for the kernel. Checks too: torch.ops can be called past `decode_linear`."""
    _check(x, weight, bias)
    return reference.decode_linear(x, weight, bias)


if extension is None:
    torch.library.define(_NAME, _SCHEMA)
    torch.library.impl(_NAME, "cpu", _fallback)
torch.library.register_fake(_NAME, _fake)
_op = torch.ops.steer_kernels.decode_linear.default
