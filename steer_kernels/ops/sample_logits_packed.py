"""`sample_logits_packed`: `sample_logits` in one tensor.

It is for a host that reads it. A host that wants a token and a figure or two of every row would
read a tensor for each, and on a GPU wait for each. One tensor takes one read, and on the CPU half
the time of a call: eight small outputs take longer to make than a small vocabulary to read.
"""

from __future__ import annotations

import enum

import torch
from torch import Tensor

from steer_kernels.ops._register import register
from steer_kernels.ops._sampling import ARGUMENTS, Cuts, check, left_to_the_kernel, takes_cuts
from steer_kernels.ops.sample_logits import SampledLogits, sample_logits


class Packed(enum.IntEnum):
    """Columns of `sample_logits_packed`.

    k logits and k ids of the top follow.
    """

    TOKEN = 0
    VALID = 1
    MAX_LOGIT = 2
    LSE = 3
    ENTROPY = 4
    LOGPROB = 5


_TOP = len(Packed)


def sample_logits_packed(
    logits: Tensor,
    uniform: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    k: int = 8,
    vocab_size: int | None = None,
) -> Tensor:
    """`sample_logits`, with everything that it finds in one tensor.

    Takes and raises what `sample_logits` does.

    Returns:
        [B, 6 + 2 k] float64 on the device of the logits, with the columns of `Packed`, the k
        largest logits and their ids. float64 holds float32 numbers and ids exactly; `unpack` gives
        them back.
    """
    cuts = (temperature, top_k, top_p, min_p)
    if not left_to_the_kernel(logits, uniform, cuts, k, vocab_size):
        return pack(sample_logits(logits, uniform, *cuts, k, vocab_size))
    try:
        packed: Tensor = _op(logits, uniform, temperature, top_k, top_p, min_p, k, vocab_size)
    except Exception:
        check(logits, uniform, Cuts(*cuts), k, vocab_size)  # names the argument, if it is one
        raise
    return packed


def pack(sampled: SampledLogits) -> Tensor:
    """Put the fields of `sampled` into one tensor.

    As `sample_logits_packed` returns them.
    """
    singles = (
        sampled.token,
        sampled.valid,
        sampled.max_logit,
        sampled.lse,
        sampled.entropy,
        sampled.logprob,
    )
    columns = [field.double()[:, None] for field in singles]
    return torch.cat([*columns, sampled.topk_logits.double(), sampled.topk_ids.double()], dim=1)


def unpack(packed: Tensor) -> SampledLogits:
    """What `sample_logits` would have returned, exactly."""
    k = (packed.shape[1] - _TOP) // 2
    floats = packed.float()
    return SampledLogits(
        floats[:, Packed.MAX_LOGIT],
        floats[:, Packed.LSE],
        floats[:, Packed.ENTROPY],
        floats[:, _TOP : _TOP + k],
        packed[:, _TOP + k :].long(),
        packed[:, Packed.VALID].bool(),
        packed[:, Packed.TOKEN].long(),
        floats[:, Packed.LOGPROB],
    )


def _fallback(*arguments: object, **options: object) -> Tensor:
    """Stands in for the C++ kernel, and on a GPU puts together what the kernel there returns."""
    operator = torch.ops.steer_kernels.sample_logits.default
    return pack(SampledLogits(*operator(*arguments, **options)))


@takes_cuts
def _fake(logits: Tensor, uniform: Tensor, cuts: Cuts, k: int, vocab_size: int | None) -> Tensor:
    return logits.new_empty((logits.shape[0], _TOP + 2 * k), dtype=torch.float64)


_op = register(
    "sample_logits_packed", f"{ARGUMENTS} -> Tensor", cpu=_fallback, cuda=_fallback, fake=_fake
)
