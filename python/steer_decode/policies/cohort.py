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
from .base import REDO, Policy, Verdict, Word


class CohortPolicy(Policy):
    """A policy that judges each round, apart for either writer.

    A subclass says which steps are confident, by :func:`verdict`.
    """

    in_rounds = True

    def __init__(self, signal: str | Signal, tokens: str) -> None:
        self.signal = get_signal(signal)
        self.tokens = one_of("tokens", tokens, ("all", "math"))

    def stays(self, step: Step) -> bool:
        return step.index > 0 or step.writer == "large"

    def after_round(self, steps: Sequence[Step]) -> Sequence[Verdict]:
        verdicts = [verdict(step, False) for step in steps]
        for writer in WRITERS:
            mine = [
                i for i, s in enumerate(steps) if s.writer == writer and not math.isnan(s.score)
            ]
            judged = self.judged(writer, [steps[i] for i in mine]) if mine else []
            for i, found in zip(mine, judged, strict=True):
                verdicts[i] = found
        return verdicts

    def after_step(self, step: Step) -> Verdict:
        return self.after_round([step])[0]

    def judged(self, writer: Writer, steps: Sequence[Step]) -> list[Verdict]:
        """A verdict on each of ``steps``.

        All were written by ``writer``, and have a score.
        """
        raise NotImplementedError


def verdict(step: Step, confident: bool, posterior: float | None = None) -> Verdict:
    """STEER's rule after a step.

    The small model goes on after a confident one, else the large model; an unconfident step 0 of
    the small model is taken back.
    """
    unsure: Word = REDO if step.index == 0 and step.writer == "small" else "large"
    return Verdict("small" if confident else unsure, posterior)
