"""A token that has been drawn, as it is told."""

from __future__ import annotations

from torch import Tensor

from steer_kernels import Packed

from ...core.requests import Draw, Row
from .log_probs import log_probs


def drawn(answer: Row, numbers: list[float], value: float, logits: Tensor, row: int) -> Draw:
    """What was drawn from row ``row`` of ``logits`` [n, V].

    A draft keeps it, where that matters. Else it is not looked at: a view costs time.
    """
    token, top = int(numbers[Packed.TOKEN]), answer.log_probs
    kept = logits[row] if answer.proposes and _keeps_logits(answer) else None
    if top is None:
        return Draw(token, value, kept)
    return Draw(token, value, kept, log_probs(numbers, logits[row], token, top))


def _keeps_logits(answer: Row) -> bool:
    """Whether it matters what a draft was drawn from."""
    return bool(answer.sampling.temperature and answer.drafting and answer.drafting.keeps_logits)
