"""What `sample_logits` and `sample_logits_packed` share.

The cuts as one value, and the checks.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steer_kernels.ops import _logits

ARGUMENTS = (
    "(Tensor logits, Tensor uniform, float temperature=1.0, int top_k=0, float top_p=1.0, "
    "float min_p=0.0, int k=8, int? vocab_size=None)"
)
_NUMBERS = (float, int)


class Cuts(NamedTuple):
    """What of a distribution is drawn from.

    Its fields are in the order of the operators' arguments.

    Fields:
        temperature: logits are divided by it; 0 for the likeliest token.
        top_k: elements that are kept, and their ties; 0 for all.
        top_p: probability that the kept ones reach, in (0, 1]; 1 for all.
        min_p: least share of the largest probability, in [0, 1]; 0 for all.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float


def cuts_something(cuts: Cuts, vocab_size: int) -> bool:
    """Whether a draw looks at anything but the temperature."""
    temperature, top_k, top_p, min_p = cuts
    return temperature != 0 and (0 < top_k < vocab_size or top_p < 1 or min_p > 0)


def left_to_the_kernel(
    logits: object,
    uniform: object,
    cuts: tuple[object, object, object, object],
    k: object,
    vocab_size: object,
) -> bool:
    """Whether the C++ kernel finds all that `check` would.

    See `_logits`. `cuts` may be a plain tuple: to make a `Cuts` of it takes 0.3 us, as long as all
    that is done here, and the kernel wants the numbers.
    """
    temperature, top_k, top_p, min_p = cuts
    return (
        _logits.left_to_the_kernel(logits, k, vocab_size)
        and type(uniform) is Tensor
        and uniform.is_cpu
        and not uniform.requires_grad
        and type(temperature) in _NUMBERS
        and type(top_p) in _NUMBERS
        and type(min_p) in _NUMBERS
        and type(top_k) is int
    )


def check(logits: Tensor, uniform: Tensor, cuts: Cuts, k: int, vocab_size: int | None) -> None:
    """Refuse what `sample_logits` does not take.

    Raises:
        TypeError, ValueError: with a sentence.
    """
    _logits.check(logits, k, vocab_size)
    if not isinstance(uniform, Tensor):
        raise TypeError(f"uniform must be a torch.Tensor, got {type(uniform).__name__}")
    if uniform.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"uniform must be float32 or float64, got {uniform.dtype}")
    if uniform.ndim != 1 or uniform.shape[0] != logits.shape[0]:
        raise ValueError(
            f"uniform must have shape [B] = [{logits.shape[0]}], got {list(uniform.shape)}"
        )
    if uniform.device != logits.device:
        raise ValueError(
            f"uniform must be on the device of the logits, {logits.device}, got {uniform.device}"
        )
    _check_cuts(cuts)


def _check_cuts(cuts: Cuts) -> None:
    temperature, top_k, top_p, min_p = cuts
    for name, value in (("temperature", temperature), ("top_p", top_p), ("min_p", min_p)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= temperature <= sys.float_info.max:
        raise ValueError(f"temperature must be 0 (greedy) or a positive number, got {temperature}")
    if not _logits.is_int(top_k):
        raise TypeError(f"top_k must be an int, got {top_k!r}")
    if top_k < 0:
        raise ValueError(f"top_k must be 0 (all) or positive, got {top_k}")
    if top_k >= 2**63:
        raise ValueError(f"top_k must be below 2^63, got {top_k}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    if not 0 <= min_p <= 1:
        raise ValueError(f"min_p must lie in [0, 1], got {min_p}")


def takes_cuts(kernel: Callable[[Tensor, Tensor, Cuts, int, int | None], Any]) -> Callable:
    """`kernel` as torch calls it.

    By the schema's arguments, of which it drops defaults.
    """

    @functools.wraps(kernel)
    def run(
        logits: Tensor,
        uniform: Tensor,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        k: int = 8,
        vocab_size: int | None = None,
    ) -> Any:
        return kernel(logits, uniform, Cuts(temperature, top_k, top_p, min_p), k, vocab_size)

    return run
