"""What routers of a cohort share.

The steps of many answers are judged together, index by index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..core.signals import Signal, get_signal
from ..core.trace import Step
from ..core.transcript import WRITERS, Writer
from ..util.checks import one_of
from .base import REDO, Policy, Redo


class CohortPolicy(Policy):
    """A policy that judges each round, apart for either writer.

    A subclass says which steps are confident.
    """

    in_rounds = True

    def __init__(self, signal: str | Signal, tokens: str) -> None:
        self.signal = get_signal(signal)
        self.tokens = one_of("tokens", tokens, ("all", "math"))

    def after_round(self, steps: Sequence[Step]) -> Sequence[Writer | Redo]:
        confident = [False] * len(steps)
        for writer in WRITERS:
            mine = [
                i for i, s in enumerate(steps) if s.writer == writer and not math.isnan(s.score)
            ]
            judged = self.confident(writer, [steps[i] for i in mine]) if mine else []
            for i, sure in zip(mine, judged, strict=True):
                confident[i] = sure
        return [_verdict(step, sure) for step, sure in zip(steps, confident, strict=True)]

    def after_step(self, step: Step) -> Writer | Redo:
        return self.after_round([step])[0]

    def confident(self, writer: Writer, steps: Sequence[Step]) -> list[bool]:
        """Which of ``steps`` are confident.

        All were written by ``writer``, and have a score.
        """
        raise NotImplementedError


def _verdict(step: Step, confident: bool) -> Writer | Redo:
    if confident:
        return "small"
    return REDO if step.index == 0 and step.writer == "small" else "large"
