"""The router of STEER's ablation (arXiv 2511.06190).

The lowest share of each round, and no mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..core.signals import Signal
from ..core.trace import Step
from ..core.transcript import Writer
from ..util.checks import fraction
from .base import Verdict
from .cohort import CohortPolicy, verdict


class Percentile(CohortPolicy):
    """Large model after the least confident share of a round.

    It is the paper's ablation.

    Args:
        share: of the steps of either writer at one index, in [0, 1].
        signal: whose mean over a step is its score.
        tokens: as for :class:`~steer_decode.policies.SteerCohort`.
    """

    name: ClassVar[str] = "percentile"

    def __init__(
        self, share: float = 0.3, signal: str | Signal = "max-logit", tokens: str = "all"
    ) -> None:
        super().__init__(signal, tokens)
        self.share = fraction("share", share)

    def judged(self, writer: Writer, steps: Sequence[Step]) -> list[Verdict]:
        scores = [self.signal.confidence(step.score) for step in steps]
        # Ties go by order, so that the share is met to within one step.
        ranked = sorted(range(len(steps)), key=lambda i: scores[i])
        routed = set(ranked[: round(self.share * len(steps))])
        return [verdict(step, i not in routed) for i, step in enumerate(steps)]

    def __str__(self) -> str:
        return f"{self.name}:share={self.share:g}:signal={self.signal.name}"
