"""Scores of an answer's steps, under every built-in signal.

The small model's control run is what `steer eval --replay` sweeps thresholds over. Its loop reads
one signal a token; here the finished answer is read once more, in one pass, and every built-in
signal is taken from it. That happens after the answer is complete and is in none of its costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import torch

from steer_kernels import logit_stats

from ..core.cost import Cost
from ..core.signals import SIGNALS
from ..core.trace import Trace
from ..core.transcript import Transcript
from ..engines.hf.lane import Lane
from ..models.pair import Pair

PART = 256  # tokens whose logits are held at a time, at least; a step is never split


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
    transcript = Transcript(list(trace.prompt_ids))
    total = len(transcript) + sum(len(step.token_ids) for step in trace.steps)
    lane = Lane(pair.small, pair.shapes["small"], [transcript], total)
    scores: list[Mapping[str, float]] = []
    waiting: list[int] = []  # lengths of the steps that are in the transcript and not yet read
    for i, step in enumerate(trace.steps):
        for token in step.token_ids:
            transcript.append(token, "small")
        waiting.append(len(step.token_ids))
        if sum(waiting) >= PART or i == len(trace.steps) - 1:
            scores += _read(pair, lane, waiting)
            waiting = []
    return scores


@torch.inference_mode()
def _read(pair: Pair, lane: Lane, lengths: list[int]) -> list[Mapping[str, float]]:
    """Scores of the last steps of the transcript, which have these lengths."""
    # The token before them is read once more: the first of them was drawn from what comes after it.
    ids, n = lane.transcript().ids, sum(lengths) + 1
    lane.roll_back(0, len(ids) - n)
    lane.shorten(0, n)
    logits = lane.read([0], [ids[lane.read_mark() :]], keep=n)[0, :-1]
    stats = logit_stats(logits, vocab_size=pair.vocab_size)
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
