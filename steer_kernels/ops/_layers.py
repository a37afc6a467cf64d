"""Checks of the operators that are layers of models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from steer_kernels.ops._autograd import check_no_tangent

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_DEVICES = ("cpu", "meta")


def check_tensors(given: Mapping[str, Tensor], elsewhere: str) -> None:
    """Check tensors, of which "x" is the first.

    Their type, layout, device, dtype and gradients.

    Args:
        given: by the names of the arguments.
        elsewhere: what to use on other devices.
    """
    x = given["x"]
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.layout != torch.strided:
            raise ValueError(f"{name} must be a dense tensor, got layout {tensor.layout}")
        if tensor.device.type not in _DEVICES:
            raise ValueError(
                f"{name} must be on the CPU, got {tensor.device}: use {elsewhere} on other devices"
            )
        if tensor.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}, got {tensor.device}")
        if tensor.dtype not in _DTYPES or tensor.dtype != x.dtype:
            wanted = "float32, bfloat16 or float16" if name == "x" else f"{x.dtype}, as x"
            raise TypeError(f"{name} must be {wanted}, got {tensor.dtype}")
        if tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{name} must not require a gradient: this operator has none; call it under "
                "torch.no_grad()"
            )
        check_no_tangent(name, tensor)
