"""STEER as published (arXiv 2511.06190, sections 3 and 4).

A mixture at every step of a cohort. Faithful: rounds in lock step; the score of a step is the mean
maximum logit of its writer, over the tokens of mathematical expressions if asked; at every step
index two Gaussians are fitted by EM to the scores of the unfinished answers, apart for steps of
either model; the posterior of the confident one against gamma; the small model writes step 0, and
an unconfident one is thrown away and written again by the large model, the only discard. Ours,
where the paper is silent: a fit that degenerates gives way to the last good one of the same writer,
and without any the step counts as unconfident; a step without a token that counts has no score and
goes to the large model; the option ``monotone``. Not of the paper but of a port of its code, and
off: ``give_up``, which leaves a question that the large model is not sure of either to the small
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..core.signals import Signal
from ..core.trace import Step, Trace
from ..core.transcript import Writer
from ..errors import SteerError
from ..util.checks import fraction
from .base import StepStart, Verdict
from .cohort import CohortPolicy, verdict
from .fitted import mixture
from .fitted.mixture import TwoGaussians


class SteerCohort(CohortPolicy):
    """STEER as published: mixtures over a cohort.

    One at every step index.

    Args:
        gamma: least posterior of a confident step, in [0, 1].
        signal: whose mean over a step is its score; the paper's is the maximum logit.
        tokens: that the score is taken over: "all", or "math" as the paper does on mathematics.
        monotone: judges by the posterior only between the two means, above and below which the
            verdict is clear. With unequal variances the posterior falls again far above the
            confident mean, and the surest steps would go to the large model.
        give_up: where a step of the large model is unconfident with at least this posterior (the
            port takes 0.9), the question is too difficult for both, and the small model writes all
            the rest; 0 never gives up, as the paper.
    """

    name: ClassVar[str] = "steer-cohort"
    has_posterior = True

    def __init__(
        self,
        gamma: float = 0.6,
        signal: str | Signal = "max-logit",
        tokens: str = "all",
        monotone: bool = False,
        give_up: float = 0.0,
    ) -> None:
        super().__init__(signal, tokens)
        self.gamma = fraction("gamma", gamma)
        self.give_up = fraction("give_up", give_up)
        if not isinstance(monotone, int | float) or monotone not in (0, 1):
            raise SteerError(f"monotone must be True or False, got {monotone!r}")
        self.monotone = bool(monotone)
        self._last_good: dict[Writer, TwoGaussians] = {}

    def start(self) -> SteerCohort:
        return SteerCohort(self.gamma, self.signal, self.tokens, self.monotone, self.give_up)

    def before_step(self, start: StepStart) -> Writer:
        if self.give_up and start.trace is not None and self._too_difficult(start.trace):
            return "small"
        return start.writer

    def _too_difficult(self, trace: Trace) -> bool:
        judged = [s.posterior for s in trace.steps if s.writer == "large"]
        return any(p is not None and 1 - p >= self.give_up for p in judged)

    def judged(self, writer: Writer, steps: Sequence[Step]) -> list[Verdict]:
        scores = [self.signal.confidence(step.score) for step in steps]
        unfinished = [x for x, step in zip(scores, steps, strict=True) if not step.ended]
        fitted = mixture.fit(unfinished)
        if fitted is not None:
            self._last_good[writer] = fitted
        best = self._last_good.get(writer)
        if best is None:
            return [verdict(step, False) for step in steps]
        posteriors = [best.posterior(score, self.monotone) for score in scores]
        return [verdict(s, p >= self.gamma, p) for s, p in zip(steps, posteriors, strict=True)]

    def __str__(self) -> str:
        more = "".join(
            f":{key}={value}"
            for key, value, usual in (
                ("signal", self.signal.name, "max-logit"),
                ("tokens", self.tokens, "all"),
                ("monotone", str(self.monotone).lower(), "false"),
                ("give_up", f"{self.give_up:g}", "0"),
            )
            if value != usual
        )
        return f"{self.name}:gamma={self.gamma:g}{more}"
