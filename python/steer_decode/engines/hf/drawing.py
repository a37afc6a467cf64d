"""A token that has been drawn, as it is told."""

from __future__ import annotations

from torch import Tensor

from steer_kernels import Packed

from ...core.requests import Draw, Row
from .log_probs import log_probs


def drawn(answer: Row, numbers: list[float], value: float, logits: Tensor) -> Draw:
    """What was drawn from ``logits`` [V].

    A draft keeps them, where that matters.
    """
    token, top = int(numbers[Packed.TOKEN]), answer.log_probs
    kept = logits if answer.proposes and _keeps_logits(answer) else None
    if top is None:
        return Draw(token, value, kept)
    return Draw(token, value, kept, log_probs(numbers, logits, token, top))


def _keeps_logits(answer: Row) -> bool:
    """Whether it matters what a draft was drawn from."""
    return bool(answer.sampling.temperature and answer.drafting and answer.drafting.keeps_logits)
