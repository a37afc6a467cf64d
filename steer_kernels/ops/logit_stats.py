"""`logit_stats`: confidence figures from one read of the logits.

They are those of next-token logits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from steer_kernels import reference
from steer_kernels.ops._logits import (
    MAX_K,
    check,
    empty_stats,
    left_to_the_kernel,
    triton_kernel,
)
from steer_kernels.ops._register import checked, has_cuda_kernel, register

__all__ = ["MAX_K", "LogitStats", "logit_stats"]

_SCHEMA = (
    "(Tensor logits, int k=8, int? vocab_size=None) -> (Tensor max_logit, Tensor lse, "
    "Tensor entropy, Tensor topk_logits, Tensor topk_ids, Tensor valid)"
)


class LogitStats(NamedTuple):
    """Statistics of B rows of logits, on their device.

    `logit_stats` returns these six tensors.

    Fields:
        max_logit: [B] float32, the largest logit.
        lse: [B] float32, log-sum-exp.
        entropy: [B] float32, Shannon entropy of the softmax in nats.
        topk_logits: [B, k] float32, the largest logits in descending order.
        topk_ids: [B, k] int64, their columns; equal logits in ascending order of column.
        valid: [B] bool, False for a row with a NaN or without any element above -inf. Such a row
            has NaN in all float fields and ids 0..k-1.

    The properties are computed from these fields without another read of the logits. They are as
    exact as a float32 `lse` allows: at logits around 1e4 the spacing of float32 is 1e-3, which is
    then the relative error of a probability. `entropy` and `logit_margin` do not lose precision
    that way.
    """

    max_logit: Tensor
    lse: Tensor
    entropy: Tensor
    topk_logits: Tensor
    topk_ids: Tensor
    valid: Tensor

    @property
    def topk_logprobs(self) -> Tensor:
        """[B, k] float32, natural log-probabilities of the top-k tokens.

        Where the largest logit is +inf, the n elements that equal it share the probability: each
        has log-probability -log n, which is minus the entropy, and the rest have -inf.
        """
        infinite = (self.max_logit == torch.inf)[:, None]
        at_max = self.topk_logits == torch.inf
        shared = torch.where(at_max, -self.entropy[:, None], -torch.inf)
        return torch.where(infinite, shared, self.topk_logits - self.lse[:, None])

    @property
    def max_prob(self) -> Tensor:
        """[B] float32, probability of the likeliest token."""
        return self.topk_logprobs[:, 0].exp()

    @property
    def margin(self) -> Tensor:
        """Likeliest token's probability minus the second's, [B] float32.

        Raises:
            ValueError: the statistics were made with k=1.
        """
        self._need_two("margin")
        probs = self.topk_logprobs[:, :2].exp()
        return probs[:, 0] - probs[:, 1]

    @property
    def logit_margin(self) -> Tensor:
        """Largest logit minus the second largest, [B] float32.

        It is 0 where both are +inf.

        Raises:
            ValueError: the statistics were made with k=1.
        """
        self._need_two("logit_margin")
        first, second = self.topk_logits[:, 0], self.topk_logits[:, 1]
        return torch.where(first == second, 0.0, first - second)

    def _need_two(self, what: str) -> None:
        k = self.topk_logits.shape[1]
        if k < 2:
            raise ValueError(
                f"{what} needs the two largest logits: call logit_stats with k >= 2, got k={k}"
            )


def logit_stats(logits: Tensor, k: int = 8, vocab_size: int | None = None) -> LogitStats:
    """Confidence figures of every row of logits.

    Maximum, log-sum-exp, entropy and the k largest logits. All of it comes from one read of the
    buffer, in the dtype it has; sums are kept in float32 (CPU: float32 lanes over at most 4096
    columns, added up in float64). With m = max x, S = sum exp(x - m) and T = sum (x - m) exp(x -
    m):

        lse = m + log S          entropy = log S - T / S

    which is the usual -sum p log p with x - m in place of log p + log S; unlike lse - E[x] it has
    no cancellation, so a shift of all logits does not change it.

    - Columns from `vocab_size` on (a padded head) never win and never count, whatever they hold.
    - -inf elements contribute nothing. A maximum of +inf shares the probability among the
      elements that equal it: one +inf is one-hot, with entropy 0 and lse +inf.
    - A row with a NaN, or with nothing above -inf, is flagged in `valid`, has NaN in the float
      outputs and ids 0..k-1, and leaves the other rows alone.
    - The top k are exact, ordered by (value descending, column ascending). -0.0 equals +0.0.
    - On the CPU a row gives bitwise the same result alone, in any batch and on any number of
      threads.
    - No gradient flows through the result.

    Args:
        logits: [B, V] float32, bfloat16 or float16 on the CPU or a CUDA device. Any V >= 1, row
            stride and storage offset; the last dimension must be contiguous. B may be 0.
        k: how many of the largest logits to return, 1 to 64 and at most `vocab_size`.
        vocab_size: number of columns that are tokens, 1 to V; V by default.

    Returns:
        `LogitStats`.

    Raises:
        TypeError: `logits` is no tensor or has another dtype; `k` or `vocab_size` is no int.
        ValueError: another rank, layout, device or stride, or a value out of range.
    """
    if left_to_the_kernel(logits, k, vocab_size, _IN_CUDA_PART):
        try:
            return LogitStats(*_op(logits, k, vocab_size))
        except Exception:
            check(logits, k, vocab_size)  # names the argument, if it is one
            raise
    check(logits, k, vocab_size)
    if logits.requires_grad:
        logits = logits.detach()
    return LogitStats(*_op(logits, k, vocab_size))


def _fake(logits: Tensor, k: int = 8, vocab_size: int | None = None) -> reference.Stats:
    return empty_stats(logits, k)


def _cuda(logits: Tensor, k: int = 8, vocab_size: int | None = None) -> reference.Stats:
    """Triton, for where the CUDA part has no kernel; the reference where there is none either."""
    check(logits, k, vocab_size)
    kernel = triton_kernel("logit_stats")
    if kernel is None:
        return reference.logit_stats(logits, k, vocab_size)
    return kernel(logits, k, logits.shape[1] if vocab_size is None else vocab_size)


_fallback = checked(check, reference.logit_stats)
_IN_CUDA_PART = has_cuda_kernel("logit_stats")
_op = register("logit_stats", _SCHEMA, cpu=_fallback, cuda=_cuda, fake=_fake)
