"""What the operators on logits share.

Checks, results without values, the way to Triton.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steer_kernels import reference

MAX_K = 64

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_DEVICES = ("cpu", "cuda", "meta")


def left_to_the_kernel(logits: object, k: object, vocab_size: object, cuda: bool = False) -> bool:
    """Whether the C++ kernel finds all that `check` would.

    It takes a microsecond less. `cuda` tells whether there is one for CUDA tensors too.
    """
    return (
        type(logits) is Tensor  # no fake one: nobody looks at the arguments then
        and (logits.is_cpu or (cuda and logits.is_cuda))
        and not logits.requires_grad
        and type(k) is int  # a bool would pass for one
        and (vocab_size is None or type(vocab_size) is int)
        and not torch.compiler.is_compiling()
    )


def check(logits: Tensor, k: int = 8, vocab_size: int | None = None, name: str = "logits") -> None:
    """Refuse what `logit_stats` does not take.

    `name` is that of the argument which holds the logits.

    Raises:
        TypeError, ValueError: with a sentence.
    """
    if not isinstance(logits, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(logits).__name__}")
    if logits.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor, got layout {logits.layout}")
    if logits.ndim != 2:
        raise ValueError(f"{name} must have shape [B, V], got {list(logits.shape)}")
    if logits.dtype not in _DTYPES:
        raise TypeError(f"{name} must be float32, bfloat16 or float16, got {logits.dtype}")
    if logits.device.type not in _DEVICES:
        raise ValueError(f"{name} must be on the CPU or a CUDA device, got {logits.device}")
    columns = logits.shape[1]
    if columns < 1:
        raise ValueError(f"{name} must have at least one column, got shape {list(logits.shape)}")
    if columns > 1 and logits.stride(1) != 1:
        raise ValueError(
            f"{name} must be contiguous in the last dimension, got strides "
            f"{list(logits.stride())}; call .contiguous() first"
        )
    if vocab_size is None:
        vocab_size = columns
    elif not is_int(vocab_size):
        raise TypeError(f"vocab_size must be an int or None, got {vocab_size!r}")
    elif not 1 <= vocab_size <= columns:
        raise ValueError(f"vocab_size must be in 1..{columns} (columns), got {vocab_size}")
    if not is_int(k):
        raise TypeError(f"k must be an int, got {k!r}")
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k must be in 1..{MAX_K}, got {k}")
    if k > vocab_size:
        raise ValueError(f"k must be at most vocab_size={vocab_size}, got {k}")


def is_int(value: object) -> bool:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def empty_stats(logits: Tensor, k: int) -> reference.Stats:
    """The six results of `logit_stats`, without values."""
    rows = logits.shape[0]
    return (
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty((rows, k), dtype=torch.float32),
        logits.new_empty((rows, k), dtype=torch.int64),
        logits.new_empty(rows, dtype=torch.bool),
    )


@functools.cache
def triton_kernel(name: str, function: str | None = None) -> Callable[..., Any] | None:
    """The Triton kernel of an operator, imported late.

    When the first CUDA tensor comes.

    Returns:
        `function` of steer_kernels/triton/NAME.py, by default `NAME_triton`; None, after a warning,
        without triton.
    """
    try:
        module = importlib.import_module(f"steer_kernels.triton.{name}")
    except ImportError as error:
        warnings.warn(
            f"{name} on CUDA tensors runs on the much slower torch reference, as the Triton "
            f"kernel cannot be imported ({error}).",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return getattr(module, function or f"{name}_triton")
