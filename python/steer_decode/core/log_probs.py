"""Log-probabilities of a token and of others in its place."""

from __future__ import annotations

from typing import NamedTuple


class LogProbs(NamedTuple):
    """What a model makes of a token, and of others.

    Natural logarithms, of the softmax of raw logits.

    Fields:
        log_prob: of the token.
        ids, log_probs: of the likeliest tokens, in descending order.
    """

    log_prob: float
    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
