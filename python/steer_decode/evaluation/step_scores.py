"""Scores of an answer's steps, under every built-in signal.

The small model's control run is what `steer eval --replay` sweeps thresholds over. Its loop reads
one signal a token; here the finished answer is read once more, in one pass, and every built-in
signal is taken from it. That happens after the answer is complete and is in none of its costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import torch
from torch import Tensor

from steer_kernels import logit_stats

from ..core.cost import Cost
from ..core.signals import SIGNALS
from ..core.trace import Trace
from ..models.pair import Pair
from .prefill import PART, prefilled


def step_scores(pair: Pair, trace: Trace) -> list[Mapping[str, float]]:
    """The score of every step under every built-in signal.

    Args:
        pair: whose small model wrote the answer.
        trace: all of it by the small model, nothing taken back.

    Returns:
        For each step, the mean of each signal over its tokens, in the signal's own unit. They are
        those of the loop up to the rounding of larger matrix products.

    Raises:
        ValueError: another model wrote a step, or one was taken back.
    """
    if any(step.discarded or step.writer != "small" for step in trace.steps):
        raise ValueError("step_scores is of answers that the small model wrote alone")
    pieces = [step.token_ids for step in trace.steps]
    scores: list[Mapping[str, float]] = []
    for lengths, logits in prefilled(pair, "small", trace.prompt_ids, pieces, PART):
        scores += _scores(logits, lengths, pair.vocab_size)
    return scores


@torch.inference_mode()
def _scores(logits: Tensor, lengths: list[int], vocab_size: int) -> list[Mapping[str, float]]:
    """Scores of steps of these lengths, whose tokens were drawn from ``logits``."""
    stats = logit_stats(logits, vocab_size=vocab_size)
    values = {name: signal.read(stats).tolist() for name, signal in SIGNALS.items()}
    ends = list(accumulate(lengths))
    return [
        {name: sum(of[end - n : end]) / n for name, of in values.items()}
        for n, end in zip(lengths, ends, strict=True)
    ]


def costs_so_far(cost: Cost) -> dict[str, float]:
    """The four figures of an answer not yet complete.

    They are as results keep them.
    """
    return {
        "flops_paper": cost.flops_paper,
        "flops_processed": cost.flops_processed,
        "bytes_read": cost.bytes_read,
        "seconds": round(cost.seconds, 6),
    }
