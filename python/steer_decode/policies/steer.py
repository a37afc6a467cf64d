"""STEER for one answer at a time (after arXiv 2511.06190).

The step just written judges the next. Faithful: the step's score is the mean maximum logit of its
writer; the posterior of the confident component is compared with gamma; the small model writes step
0 and an unconfident step 0 is taken back and written again by the large model, the only discard;
steps of the large model are judged by its own logits in fits of their own. Ours: the mixtures come
from a calibration run by step-index bin, since one question has no cohort; or a plain threshold
stands in for the posterior.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ..core.gate_rule import NOWHERE, GateRule, Region
from ..core.signals import Signal, get_signal
from ..core.trace import Step
from ..core.transcript import Writer
from ..errors import SteerError
from ..models.two_models import TwoModels
from ..util import checks
from .base import Policy, Verdict
from .cohort import verdict
from .fitted.calibration import BINS, Calibration

GAMMA = 0.6


class Steer(Policy):
    """Small model after a confident step, else the large one.

    Args:
        calibration: mixtures of this pair, or a path to them. The signal is the calibration's.
        gamma: least posterior of a confident step, in [0, 1]; by default the calibration's own.
        threshold: instead of a calibration, the least score of a confident step, in the signal's
            own unit (the greatest, where lower is surer).
        large_threshold: likewise for steps of the large model, whose logits have a scale of their
            own; by default ``threshold``.
        signal: what is averaged, with a threshold.

    Raises:
        SteerError: neither or both of calibration and threshold, or a value out of its range.
    """

    name: ClassVar[str] = "steer"
    takes_calibration: ClassVar[bool] = True

    def __init__(
        self,
        calibration: Calibration | str | Path | None = None,
        gamma: float | None = None,
        threshold: float | None = None,
        large_threshold: float | None = None,
        signal: str | Signal = "max-logit",
    ) -> None:
        if (calibration is None) == (threshold is None):
            raise SteerError(
                "steer needs either a calibration (make one with `steer calibrate`) or a threshold"
            )
        if calibration is not None:
            loaded, self._source = checks.loaded(
                "calibration", calibration, Calibration, Calibration.load
            )
            self.calibration, self.has_posterior, self.fitted = loaded, True, loaded.digest
        kept = self.calibration.settings if self.calibration else {}
        self.gamma = checks.fraction("gamma", kept.get("gamma", GAMMA) if gamma is None else gamma)
        self.threshold = None if threshold is None else checks.threshold("threshold", threshold)
        self.large_threshold = (
            self.threshold
            if large_threshold is None
            else checks.threshold("large_threshold", large_threshold)
        )
        self.signal = get_signal(self.calibration.signal if self.calibration else signal)

    def check(self, pair: TwoModels) -> None:
        if self.calibration is not None:
            self.calibration.check(pair, self._source)

    def stays(self, step: Step) -> bool:
        return step.index > 0 or step.writer == "large"

    def after_step(self, step: Step) -> Verdict:
        return verdict(step, *self._confident(step))

    def _confident(self, step: Step) -> tuple[bool, float | None]:
        """Whether a step is confident, and with a calibration how likely."""
        confidence = self.signal.confidence(step.score)
        if self.calibration is not None:
            posterior = self.calibration.posterior(step.writer, step.index, confidence)
            # Without a fit nothing vouches for the step.
            return posterior is not None and posterior >= self.gamma, posterior
        limit = self.threshold if step.writer == "small" else self.large_threshold
        assert limit is not None
        return confidence >= self.signal.confidence(limit), None

    def gate_rule(self, writer: Writer) -> GateRule | None:
        if not self.signal.named:
            return None
        sure = tuple(self._sure(writer, index) for index in (BINS if self.calibration else (0,)))
        # The large model goes on after an unsure step, and hands back after a sure one.
        after = sure if writer == "small" else tuple(~region for region in sure)
        return GateRule(self.signal.name, after=after)

    def _sure(self, writer: Writer, index: int) -> Region:
        """Scores of a step that is confident."""
        if self.calibration is None:
            limit = self.threshold if writer == "small" else self.large_threshold
            assert limit is not None
            return self.signal.sure(limit)
        mixture = self.calibration.mixture(writer, index)
        confident = NOWHERE if mixture is None else mixture.confident(self.gamma)
        return confident if self.signal.higher_is_surer else -confident

    def __str__(self) -> str:
        if self.calibration is not None:
            return f"steer:gamma={self.gamma:g}"
        return f"steer:threshold={self.threshold:g}:signal={self.signal.name}"
