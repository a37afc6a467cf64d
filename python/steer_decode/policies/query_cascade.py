"""A query cascade in the manner of COREA (arXiv 2603.03752).

The small model answers, or the large one. Faithful: the small model answers the whole question and
gives a calibrated confidence; below a threshold the question goes to the large model, which answers
it from the beginning. The answer that was taken back is counted. Not faithful: COREA trains the
small model by reinforcement to state its confidence in words; here nothing is trained, and the
confidence is the mean, the least, the last or the first score of the steps, through a logistic map
that was fitted to right and wrong answers. Without parameters it is the bare score. An answer that
is cut off at the token limit is not judged and stays. The first score is known when the first step
closes, and is judged there: what is not confident costs one step of the small model, not a whole
answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from ..core.signals import Signal, get_signal
from ..core.trace import Step, Trace
from ..core.transcript import Writer
from ..models.two_models import TwoModels
from ..util import checks
from .base import RESTART, Policy, Redo, Restart
from .fitted.file import path_setting
from .fitted.logistic import Logistic, LogisticMaps

OVER = ("mean", "min", "last", "first")


def confidence_of(steps: Sequence[Step], signal: Signal, over: str) -> float:
    """Confidence of a whole answer, higher is surer; see :func:`summed_up`."""
    return summed_up([signal.confidence(step.score) for step in steps], over)


def summed_up(confidences: Sequence[float], over: str) -> float:
    """One confidence for those of an answer's steps.

    They come in their order; NaN without one. ``over`` says which: "mean" and "min" leave steps
    without a confidence (NaN) out, "last" and "first" are that step's.
    """
    if over in ("last", "first"):
        return confidences[-1 if over == "last" else 0] if confidences else math.nan
    known = [x for x in confidences if not math.isnan(x)]
    if not known:
        return math.nan
    return min(known) if over == "min" else sum(known) / len(known)


class QueryCascade(Policy):
    """Large model where the small one's answer is not confident.

    It is given the whole question.

    Args:
        threshold: least confidence of an answer that stays: a probability with parameters, in the
            unit of the signal without.
        path: parameters, made by ``steer train-router corea``; they bring signal and ``over``.
        signal: whose mean over a step is its score, where there are no parameters.
        over: "mean" of the steps' scores, or "min", "last" or "first" of them.

    Raises:
        SteerError: a threshold that is no number, or an unknown word; or no parameters in the file.
    """

    name: ClassVar[str] = "corea"
    shipped: ClassVar[str] = "corea.json"
    restarts = True

    def __init__(
        self,
        threshold: float = 0.5,
        path: str | Path | LogisticMaps | None = None,
        signal: str | Signal = "max-prob",
        over: str = "mean",
    ) -> None:
        self.threshold = checks.threshold("threshold", threshold)
        self._path = ""
        self.parameters: LogisticMaps | None = None
        if path is not None:
            self.parameters, self._path = checks.loaded(
                "path", path, LogisticMaps, partial(LogisticMaps.load, kind=self.name)
            )
        self._map: Logistic | None = None
        if self.parameters is not None:
            self.fitted = str(dict(self.parameters.maps))
            self._map = self.parameters.maps["answer"]
            signal = str(self.parameters.settings["signal"])
            over = str(self.parameters.settings["over"])
        self.signal = get_signal(signal)
        self.over = checks.one_of("over", over, OVER)

    def check(self, pair: TwoModels) -> None:
        if self.parameters is not None:
            self.parameters.check(pair, self._path)

    def stays(self, step: Step) -> bool:
        return step.writer == "large"

    def judge(self, step: Step, trace: Trace) -> Writer | Redo | Restart:
        if step.writer == "large":
            return "large"
        # The first step is judged as it closes, all else as the answer ends.
        if (step.index > 0) if self.over == "first" else not step.ended:
            return "small"
        limit = self.threshold
        if self.parameters is None:
            limit = self.signal.confidence(limit)
        # Not "below the limit": an answer without a confidence is not a confident one.
        return "small" if self.confidence(trace.kept) >= limit else RESTART

    def confidence(self, steps: Sequence[Step]) -> float:
        """Confidence of the answer that ``steps`` make.

        With parameters, a probability that it is right.
        """
        value = confidence_of(steps, self.signal, self.over)
        return self._map(value) if self._map is not None and not math.isnan(value) else value

    def __str__(self) -> str:
        more = f":signal={self.signal.name}:over={self.over}"
        if self._path:
            more = path_setting(self._path)
        return f"{self.name}:threshold={self.threshold:g}{more}"
