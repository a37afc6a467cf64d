"""`sample_logits`: statistics and the next token from one read.

`logit_stats` gives the statistics; the token comes with its log-probability.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from steer_kernels import reference
from steer_kernels.ops._logits import empty_stats, triton_kernel
from steer_kernels.ops._register import has_cuda_kernel, register
from steer_kernels.ops._sampling import (
    ARGUMENTS,
    Cuts,
    check,
    cuts_something,
    left_to_the_kernel,
    takes_cuts,
)
from steer_kernels.ops.logit_stats import LogitStats

_SCHEMA = (
    f"{ARGUMENTS} -> (Tensor max_logit, Tensor lse, Tensor entropy, Tensor topk_logits, "
    "Tensor topk_ids, Tensor valid, Tensor token, Tensor logprob)"
)


class SampledLogits(NamedTuple):
    """What `sample_logits` returns.

    The six fields of `LogitStats`, and two more.

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
    """Statistics of every row, and a token drawn from each.

    The statistics are those of `logit_stats`. Elements are ranked by (logit descending, column
    ascending); what is kept is a prefix of the ranking. The cuts are those of transformers'
    warpers, in their order:

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
    cuts = (temperature, top_k, top_p, min_p)
    if left_to_the_kernel(logits, uniform, cuts, k, vocab_size):
        try:
            return SampledLogits(
                *_op(logits, uniform, temperature, top_k, top_p, min_p, k, vocab_size)
            )
        except Exception:
            check(logits, uniform, Cuts(*cuts), k, vocab_size)  # names the argument, if it is one
            raise
    check(logits, uniform, Cuts(*cuts), k, vocab_size)
    if logits.requires_grad or uniform.requires_grad:
        logits, uniform = logits.detach(), uniform.detach()
    kept = Cuts(float(temperature), top_k, float(top_p), float(min_p))
    if type(logits) is Tensor and logits.is_cuda and not torch.compiler.is_compiling():
        # Past the registered function below, which takes as long again.
        return SampledLogits(*_by_gpu(logits, uniform, kept, k, vocab_size))
    return SampledLogits(*_op(logits, uniform, *kept, k, vocab_size))


@takes_cuts
def _fake(
    logits: Tensor, uniform: Tensor, cuts: Cuts, k: int, vocab_size: int | None
) -> reference.Sampled:
    rows = logits.shape[0]
    token = logits.new_empty(rows, dtype=torch.int64)
    logprob = logits.new_empty(rows, dtype=torch.float32)
    return (*empty_stats(logits, k), token, logprob)


@takes_cuts
def _fallback(
    logits: Tensor, uniform: Tensor, cuts: Cuts, k: int, vocab_size: int | None
) -> reference.Sampled:
    """Stands in for the C++ kernel. Checks too: torch.ops can be called past `sample_logits`."""
    check(logits, uniform, cuts, k, vocab_size)
    outside = ~((uniform >= 0) & (uniform < 1))
    if outside.any():
        row = int(outside.int().argmax())
        raise RuntimeError(f"uniform must lie in [0, 1), got {float(uniform[row])} in row {row}")
    return reference.sample_logits(logits, uniform, *cuts, k, vocab_size)


@takes_cuts
def _cuda(
    logits: Tensor, uniform: Tensor, cuts: Cuts, k: int, vocab_size: int | None
) -> reference.Sampled:
    """Checks too: torch.ops can be called past `sample_logits`."""
    check(logits, uniform, cuts, k, vocab_size)
    return _by_gpu(logits, uniform, cuts, k, vocab_size)


def _by_gpu(
    logits: Tensor, uniform: Tensor, cuts: Cuts, k: int, vocab_size: int | None
) -> reference.Sampled:
    """The CUDA part, else Triton; the reference where there is neither.

    Neither kernel has the host read anything. A row whose list does not decide the cuts is Triton's
    in any case.
    """
    columns = logits.shape[1] if vocab_size is None else vocab_size
    cut = cuts_something(cuts, columns)
    search = triton_kernel("sample_logits", "draw_undecided") if cut else None
    if _rows is not None and (search is not None or not cut):
        found = _rows(logits, uniform, *cuts, k, columns)
        if search is not None and logits.shape[0]:
            search(logits, uniform.double().contiguous(), cuts, columns, found[0], *found[6:])
        return found
    kernel = triton_kernel("sample_logits")
    if kernel is not None:
        return kernel(logits, uniform, cuts, k, columns)
    stats = reference.logit_stats(logits, k, columns)
    inside = (uniform >= 0) & (uniform < 1)
    token, logprob = reference.draw(logits[:, :columns], uniform.where(inside, 0.0), *cuts)
    return (*stats, token.where(inside, 0), logprob.float().where(inside, torch.nan))


_rows: Callable[..., reference.Sampled] | None = None  # of the CUDA part
if has_cuda_kernel("_sample_rows"):
    _rows = torch.ops.steer_kernels._sample_rows.default
_op = register("sample_logits", _SCHEMA, cpu=_fallback, cuda=_cuda, fake=_fake)
