"""Which memory tensors share, for the torch reference.

The kernels have core/memory_overlap.h.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Named = tuple[str, Tensor]


def refuse_shared(written: Sequence[Named], read: Sequence[Named]) -> None:
    """Refuse tensors that share memory with written ones.

    Raises:
        ValueError: a byte of `written` is in another of them, or in one of `read`.
    """
    for i, (name, tensor) in enumerate(written):
        for other_name, other in (*written[i + 1 :], *read):
            if _meet(tensor, other) and torch.isin(_bytes(tensor), _bytes(other)).any():
                raise ValueError(
                    f"{other_name} shares memory with what is written of {name}; clone() it first"
                )


def _meet(a: Tensor, b: Tensor) -> bool:
    return (
        bool(a.numel() and b.numel())
        and a.device == b.device
        and (a.data_ptr() < b.data_ptr() + _length(b) and b.data_ptr() < a.data_ptr() + _length(a))
    )


def _length(tensor: Tensor) -> int:
    """Bytes from the first element to the end of the last one."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return (sum((size - 1) * stride for size, stride in steps) + 1) * tensor.element_size()


def _bytes(tensor: Tensor) -> Tensor:
    """The address of every byte of a tensor, int64."""
    at = torch.tensor([tensor.data_ptr()])
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        at = (at[:, None] + torch.arange(size) * stride * tensor.element_size()).flatten()
    return (at[:, None] + torch.arange(tensor.element_size())).flatten()
