"""`accept_drafts`: the test that makes speculative decoding lossless.

A drafted token stands with the probability that keeps the large model's distribution as it is, and
is replaced from what is left of that distribution where it does not.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from steer_kernels import reference
from steer_kernels.ops import _logits, _sampling
from steer_kernels.ops._register import register
from steer_kernels.ops._sampling import Cuts
from steer_kernels.ops.sample_logits_packed import Packed

_SCHEMA = (
    "(Tensor logits, Tensor drafts, Tensor uniform, Tensor? draft_logits=None, "
    "float temperature=1.0, int top_k=0, float top_p=1.0, float min_p=0.0, int k=8, "
    "int? vocab_size=None) -> Tensor"
)


class PackedDraft(enum.IntEnum):
    """Columns of `accept_drafts` behind those of `sample_logits_packed`.

    They count from the end, whatever k is.
    """

    DRAFT_LOGPROB = -2
    ACCEPTED = -1


def accept_drafts(
    logits: Tensor,
    drafts: Tensor,
    uniform: Tensor,
    draft_logits: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    k: int = 8,
    vocab_size: int | None = None,
) -> Tensor:
    """Test drafted tokens against a large model's logits.

    What is refused is replaced.

    A row is a place of a text at which a token was drafted; or, with the draft -1, the place behind
    the last draft, at which a token is drawn as `sample_logits` draws it. p is the distribution of
    `logits` and q that of `draft_logits`, both after temperature and cuts, which are those of
    `sample_logits`. Whatever q is, the token of a row whose draft was drawn from q follows p
    (Leviathan et al., arXiv 2211.17192, theorem 1; Chen et al., arXiv 2302.01318):

        draft_logits given   the draft d is accepted if uniform < a, a = min(1, p(d) / q(d)); else
                             the token is drawn from max(0, p - q), normalised, in column order, by
                             (uniform - a) / (1 - a), which is uniform again. a is 1 if q(d) is 0
                             and p(d) is not, and 0 if both are. Where rounding leaves max(0, p - q)
                             no mass, the token is drawn from p.
        no draft_logits      the token is drawn from p by uniform, and d is accepted if it is that
                             token: the same test where d is certain under q, as greedy drafts are.
        temperature 0        the token is the likeliest one, and d is accepted if it is that token.
                             `draft_logits` are not read.

    A row is judged by itself: a caller takes the rows of a text up to the first that is refused,
    and the replacement there. A refused row is redrawn by what `uniform` has beyond a, so float64
    numbers are worth their bytes where refusals are rare.

    Args:
        logits: [B, V] raw logits of the large model, as in `logit_stats`.
        drafts: [B] int64 on the device of the logits, each a column below `vocab_size`, or -1 where
            there is no draft.
        uniform: [B] float32 or float64 on the device of the logits, each in [0, 1); other numbers
            than those that the drafts were drawn by.
        draft_logits: [B, V2] raw logits that the drafts were drawn from, or None. V2 and the dtype
            may differ from those of `logits`. Those of a row without a draft may be anything.
        temperature, top_k, top_p, min_p: as in `sample_logits`, for both distributions.
        k: as in `logit_stats`.
        vocab_size: number of columns that are tokens, at most V and at most V2; V by default.

    Returns:
        [B, 6 + 2 k + 2] float64 on the device of the logits: what `sample_logits_packed` returns,
        with the token that stands at the place and its log-probability under p, then the columns
        of `PackedDraft`: the draft's log-probability under p (of the raw softmax at temperature 0;
        -inf where cut; NaN without a draft), and 1 where it was accepted, else 0. So
        `unpack(result[:, :-2])` gives the statistics, which are those of the raw `logits`. A row
        whose logits are not valid, or whose draft logits were needed and are not, has VALID 0,
        TOKEN 0 and ACCEPTED 0, its other numbers being NaN and its ids 0 to k-1.

    Raises:
        TypeError: what `sample_logits` raises, and another type or dtype of `drafts` or
            `draft_logits`.
        ValueError: what `sample_logits` raises, another shape or device of `drafts` or
            `draft_logits`, or fewer columns of `draft_logits` than `vocab_size`.
        RuntimeError: on the CPU, a value of `uniform` outside [0, 1), or of `drafts` that is
            neither -1 nor a column below `vocab_size`. On a GPU the host does not read the values;
            there the row is given the token 0, NaN as its log-probabilities, and ACCEPTED 0.
    """
    cuts = (temperature, top_k, top_p, min_p)
    if _left_to_the_kernel(logits, drafts, uniform, draft_logits, cuts, k, vocab_size):
        try:
            packed: Tensor = _op(logits, drafts, uniform, draft_logits, *cuts, k, vocab_size)
        except Exception:
            check(logits, drafts, uniform, draft_logits, Cuts(*cuts), k, vocab_size)
            raise
        return packed
    check(logits, drafts, uniform, draft_logits, Cuts(*cuts), k, vocab_size)
    numbers = (float(temperature), top_k, float(top_p), float(min_p))
    if draft_logits is not None:
        draft_logits = draft_logits.detach()
    result: Tensor = _op(
        logits.detach(), drafts, uniform.detach(), draft_logits, *numbers, k, vocab_size
    )
    return result


def _left_to_the_kernel(
    logits: object,
    drafts: object,
    uniform: object,
    draft_logits: object,
    cuts: tuple[object, object, object, object],
    k: object,
    vocab_size: object,
) -> bool:
    """Whether the C++ kernel finds all that `check` would; see `_sampling`."""
    return (
        _sampling.left_to_the_kernel(logits, uniform, cuts, k, vocab_size)
        and type(drafts) is Tensor
        and drafts.is_cpu
        and (
            draft_logits is None
            or (
                type(draft_logits) is Tensor
                and draft_logits.is_cpu
                and not draft_logits.requires_grad
            )
        )
    )


def check(
    logits: Tensor,
    drafts: Tensor,
    uniform: Tensor,
    draft_logits: Tensor | None,
    cuts: Cuts,
    k: int,
    vocab_size: int | None,
) -> None:
    """Refuse what `accept_drafts` does not take.

    Raises:
        TypeError, ValueError: with a sentence.
    """
    _sampling.check(logits, uniform, cuts, k, vocab_size)
    if not isinstance(drafts, Tensor):
        raise TypeError(f"drafts must be a torch.Tensor, got {type(drafts).__name__}")
    if drafts.dtype != torch.int64:
        raise TypeError(f"drafts must be int64, got {drafts.dtype}")
    rows = logits.shape[0]
    if drafts.ndim != 1 or drafts.shape[0] != rows:
        raise ValueError(f"drafts must have shape [B] = [{rows}], got {list(drafts.shape)}")
    if drafts.device != logits.device:
        raise ValueError(
            f"drafts must be on the device of the logits, {logits.device}, got {drafts.device}"
        )
    if draft_logits is not None:
        _check_draft_logits(draft_logits, logits, vocab_size)


def _check_draft_logits(draft_logits: Tensor, logits: Tensor, vocab_size: int | None) -> None:
    _logits.check(draft_logits, 1, name="draft_logits")
    if draft_logits.shape[0] != logits.shape[0]:
        raise ValueError(
            f"draft_logits must have a row for each of the {logits.shape[0]} rows of logits, got "
            f"shape {list(draft_logits.shape)}"
        )
    if draft_logits.device != logits.device:
        raise ValueError(
            f"draft_logits must be on the device of the logits, {logits.device}, got "
            f"{draft_logits.device}"
        )
    columns = logits.shape[1] if vocab_size is None else vocab_size
    if draft_logits.shape[1] < columns:
        raise ValueError(
            f"draft_logits must have at least vocab_size={columns} columns, got shape "
            f"{list(draft_logits.shape)}; pass the vocab_size that both models share"
        )


def _takes_cuts(
    kernel: Callable[[Tensor, Tensor, Tensor, Tensor | None, Cuts, int, int | None], Tensor],
) -> Callable[..., Tensor]:
    """`kernel` as torch calls it; see `_sampling.takes_cuts`."""

    @functools.wraps(kernel)
    def run(
        logits: Tensor,
        drafts: Tensor,
        uniform: Tensor,
        draft_logits: Tensor | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        k: int = 8,
        vocab_size: int | None = None,
    ) -> Tensor:
        cuts = Cuts(temperature, top_k, top_p, min_p)
        return kernel(logits, drafts, uniform, draft_logits, cuts, k, vocab_size)

    return run


@_takes_cuts
def _fake(
    logits: Tensor,
    drafts: Tensor,
    uniform: Tensor,
    draft_logits: Tensor | None,
    cuts: Cuts,
    k: int,
    vocab_size: int | None,
) -> Tensor:
    columns = len(Packed) + 2 * k + len(PackedDraft)
    return logits.new_empty((logits.shape[0], columns), dtype=torch.float64)


@_takes_cuts
def _fallback(
    logits: Tensor,
    drafts: Tensor,
    uniform: Tensor,
    draft_logits: Tensor | None,
    cuts: Cuts,
    k: int,
    vocab_size: int | None,
) -> Tensor:
    """Stands in for the C++ kernel. Checks too: torch.ops can be called past `accept_drafts`."""
    check(logits, drafts, uniform, draft_logits, cuts, k, vocab_size)
    columns = logits.shape[1] if vocab_size is None else vocab_size
    inside = (uniform >= 0) & (uniform < 1)
    if not inside.all():
        row = int(inside.int().argmin())
        raise RuntimeError(f"uniform must lie in [0, 1), got {float(uniform[row])} in row {row}")
    known = (drafts >= -1) & (drafts < columns)
    if not known.all():
        row = int(known.int().argmin())
        raise RuntimeError(
            f"drafts must be -1 (no draft) or in 0..{columns - 1} (vocab_size is {columns}), got "
            f"{int(drafts[row])} in row {row}"
        )
    return reference.accept_drafts(logits, drafts, uniform, draft_logits, *cuts, k, columns)


@_takes_cuts
def _cuda(
    logits: Tensor,
    drafts: Tensor,
    uniform: Tensor,
    draft_logits: Tensor | None,
    cuts: Cuts,
    k: int,
    vocab_size: int | None,
) -> Tensor:
    """Triton, with nothing read on the host; the reference on the device where there is none."""
    check(logits, drafts, uniform, draft_logits, cuts, k, vocab_size)
    columns = logits.shape[1] if vocab_size is None else vocab_size
    kernel = _logits.triton_kernel("accept_drafts")
    if kernel is not None:
        packed: Tensor = kernel(logits, drafts, uniform, draft_logits, cuts, k, columns)
        return packed
    good = (uniform >= 0) & (uniform < 1) & (drafts >= -1) & (drafts < columns)
    drafts, uniform = drafts.where(good, -1), uniform.where(good, 0.0)
    out = reference.accept_drafts(logits, drafts, uniform, draft_logits, *cuts, k, columns)
    out[:, Packed.TOKEN] = out[:, Packed.TOKEN].where(good, 0.0)
    out[:, Packed.LOGPROB] = out[:, Packed.LOGPROB].where(good, torch.nan)
    return out


_op = register("accept_drafts", _SCHEMA, cpu=_fallback, cuda=_cuda, fake=_fake)
