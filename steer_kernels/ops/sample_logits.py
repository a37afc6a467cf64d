"""`sample_logits`: `logit_stats`, and the next token with its log-probability, from one read."""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch
from torch import Tensor

from steer_kernels import reference
from steer_kernels._extension import extension
from steer_kernels.ops import logit_stats as stats_op
from steer_kernels.ops.logit_stats import LogitStats

_NUMBERS = (float, int)
_NAME = "steer_kernels::sample_logits"
_SCHEMA = (
    "(Tensor logits, Tensor uniform, float temperature=1.0, int top_k=0, float top_p=1.0, "
    "float min_p=0.0, int k=8, int? vocab_size=None) -> (Tensor max_logit, Tensor lse, "
    "Tensor entropy, Tensor topk_logits, Tensor topk_ids, Tensor valid, Tensor token, "
    "Tensor logprob)"
)


class SampledLogits(NamedTuple):
    """What `sample_logits` returns: the six fields of `LogitStats`, and two more.

    Fields:
        max_logit, lse, entropy, topk_logits, topk_ids, valid: as in `LogitStats`; of the raw
            logits, whatever the temperature and the cuts.
        token: [B] int64, the next token, always a column below `vocab_size`; 0 for a row that is
            not valid.
        logprob: [B] float32, natural logarithm of the token's probability in the distribution that
            it was drawn from: after temperature and cuts, renormalised. Greedy tokens are given
            that of the raw softmax. NaN for a row that is not valid.
    """

    max_logit: Tensor
    lse: Tensor
    entropy: Tensor
    topk_logits: Tensor
    topk_ids: Tensor
    valid: Tensor
    token: Tensor
    logprob: Tensor

    @property
    def stats(self) -> LogitStats:
        """The statistics alone, with what follows from them."""
        return LogitStats(*self[:6])


def sample_logits(
    logits: Tensor,
    uniform: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    k: int = 8,
    vocab_size: int | None = None,
) -> SampledLogits:
    """Statistics of every row as `logit_stats` gives them, and one token drawn from each.

    Elements are ranked by (logit descending, column ascending); what is kept is a prefix of the
    ranking. The cuts are those of transformers' warpers, in their order:

        temperature   x / temperature
        top_k         the first top_k, and all that tie with the last of them
        top_p         of those, the fewest whose probability reaches top_p; ties by column, while
                      transformers leaves ties to torch's sort
        min_p         of those, the ones with at least min_p times the largest probability

    With w = exp((x - max x) / temperature) on the kept elements, the token is the first column, in
    column order, at which the running sum of w exceeds uniform * sum w. So the result is a function
    of its inputs: no random numbers are drawn here. Cuts are exact, never an approximation: where
    the list of the largest logits does not cover what is kept, the row is sorted.

    The same inputs give the same token on every backend, except where `uniform` (or `top_p`) falls
    within the rounding of a boundary between two tokens, about 1e-6 of the whole.

    Args:
        logits: [B, V], as in `logit_stats`.
        uniform: [B] float32 or float64 on the device of the logits, each in [0, 1).
        temperature: above 0; or 0 for the likeliest token, whatever the other arguments.
        top_k: 0 for no cut, or at least 1.
        top_p: in (0, 1]; 1 for no cut.
        min_p: in [0, 1]; 0 for no cut.
        k, vocab_size: as in `logit_stats`; `k` does not limit what can be drawn.

    Returns:
        `SampledLogits`.

    Raises:
        TypeError: what `logit_stats` raises, and another type of `uniform` or of a number.
        ValueError: what `logit_stats` raises, another shape or device of `uniform`, or a number
            out of range.
        RuntimeError: on the CPU, a value of `uniform` outside [0, 1). On a GPU the host does not
            read the values; there the row is given the token 0, and NaN as its log-probability.
    """
    if _left_to_the_kernel(logits, uniform, temperature, top_k, top_p, min_p, k, vocab_size):
        try:
            return SampledLogits(
                *_OP(logits, uniform, temperature, top_k, top_p, min_p, k, vocab_size)
            )
        except Exception:
            _check(logits, uniform, temperature, top_k, top_p, min_p, k, vocab_size)
            raise
    _check(logits, uniform, temperature, top_k, top_p, min_p, k, vocab_size)
    if logits.requires_grad or uniform.requires_grad:
        logits, uniform = logits.detach(), uniform.detach()
    return SampledLogits(
        *_OP(logits, uniform, float(temperature), top_k, float(top_p), float(min_p), k, vocab_size)
    )


def _left_to_the_kernel(
    logits: object,
    uniform: object,
    temperature: object,
    top_k: object,
    top_p: object,
    min_p: object,
    k: object,
    vocab_size: object,
) -> bool:
    """As for `logit_stats`: whether the C++ kernel itself finds all that `_check` would."""
    return (
        stats_op._left_to_the_kernel(logits, k, vocab_size)
        and type(uniform) is Tensor
        and uniform.is_cpu
        and not uniform.requires_grad
        and type(temperature) in _NUMBERS
        and type(top_p) in _NUMBERS
        and type(min_p) in _NUMBERS
        and type(top_k) is int
    )


def _check(
    logits: Tensor,
    uniform: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    k: int,
    vocab_size: int | None,
) -> None:
    stats_op._check(logits, k, vocab_size)
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
    for name, value in (("temperature", temperature), ("top_p", top_p), ("min_p", min_p)):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= temperature <= sys.float_info.max:
        raise ValueError(f"temperature must be 0 (greedy) or a positive number, got {temperature}")
    if not stats_op._is_int(top_k):
        raise TypeError(f"top_k must be an int, got {top_k!r}")
    if top_k < 0:
        raise ValueError(f"top_k must be 0 (all) or positive, got {top_k}")
    if top_k >= 2**63:
        raise ValueError(f"top_k must be below 2^63, got {top_k}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    if not 0 <= min_p <= 1:
        raise ValueError(f"min_p must lie in [0, 1], got {min_p}")


def _fake(
    logits: Tensor,
    uniform: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    k: int = 8,
    vocab_size: int | None = None,
) -> reference.Sampled:
    rows = logits.shape[0]
    token = logits.new_empty(rows, dtype=torch.int64)
    logprob = logits.new_empty(rows, dtype=torch.float32)
    return (*stats_op._fake(logits, k, vocab_size), token, logprob)


def _cpu_fallback(
    logits: Tensor,
    uniform: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    k: int = 8,
    vocab_size: int | None = None,
) -> reference.Sampled:
    """Stands in for the C++ kernel. Checks too: torch.ops can be called past `sample_logits`."""
    _check(logits, uniform, temperature, top_k, top_p, min_p, k, vocab_size)
    outside = ~((uniform >= 0) & (uniform < 1))
    if outside.any():
        row = int(outside.int().argmax())
        raise RuntimeError(f"uniform must lie in [0, 1), got {float(uniform[row])} in row {row}")
    return reference.sample_logits(logits, uniform, temperature, top_k, top_p, min_p, k, vocab_size)


def _cuda(
    logits: Tensor,
    uniform: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    k: int = 8,
    vocab_size: int | None = None,
) -> reference.Sampled:
    """Triton, with nothing read on the host; the reference on the device where there is none."""
    _check(logits, uniform, temperature, top_k, top_p, min_p, k, vocab_size)
    columns = logits.shape[1] if vocab_size is None else vocab_size
    if stats_op._triton_kernel() is not None:
        from steer_kernels.triton.sample_logits import sample_logits_triton

        return sample_logits_triton(logits, uniform, temperature, k, columns, top_k, top_p, min_p)
    stats = stats_op._cuda(logits, k, vocab_size)
    inside = (uniform >= 0) & (uniform < 1)
    token, logprob = reference.draw(
        logits[:, :columns], uniform.where(inside, 0.0), temperature, top_k, top_p, min_p
    )
    return (*stats, token.where(inside, 0), logprob.float().where(inside, torch.nan))


if extension is None:
    torch.library.define(_NAME, _SCHEMA)
    torch.library.impl(_NAME, "cpu", _cpu_fallback)
torch.library.impl(_NAME, "cuda", _cuda)
torch.library.register_fake(_NAME, _fake)
_OP = torch.ops.steer_kernels.sample_logits.default
