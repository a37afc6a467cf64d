"""How well each number tells right answers from wrong ones.

AUROC is the probability that a right answer (or step) has the higher number, ties counted half: 0.5
says nothing, 1 says all. Intervals are over problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ...util.numbers import weighted_auroc
from ..report.bootstrap import RESAMPLES, Bootstrap, Interval, interval, mean_share
from .record import Absent, AnswerRecord, Array
from .scores import AnswerNumber, StepScore, scores, scores_of_steps

_CHUNK = 200  # resamples at a time
STAYING = (0.25, 0.5, 0.75)  # shares of the answers that are left to the small model


class Threshold(NamedTuple):
    """A threshold, and the answers above it.

    Their share of all, and how many of them are right.
    """

    threshold: float
    stays: float
    right: float


@dataclass(frozen=True)
class Told:
    """How well one number tells right from wrong.

    Attributes:
        name: the router that goes by it, or what it is.
        what: in words.
        auroc: with its interval, over problems.
        right, wrong: how many there were of each.
        surest: share of right ones among the surer half, and among the rest.
        half_sent: accuracy of a cascade that sends the less sure half of the questions to the large
            model; None where that is not known.
        thresholds: of the router, that leave a quarter, a half and three quarters of the answers
            to the small model, as near as can be.
    """

    name: str
    what: str
    auroc: Interval
    right: int
    wrong: int
    surest: tuple[float, float]
    half_sent: Interval | None = None
    thresholds: Sequence[Threshold] = ()


@dataclass(frozen=True)
class Signals:
    """What all numbers tell, best first.

    Attributes:
        answers, steps: of answers, and of steps.
        absent: why some are missing, in sentences.
    """

    answers: Sequence[Told]
    steps: Sequence[Told]
    absent: Sequence[str]


def told_by_signals(
    small: Sequence[AnswerRecord],
    large: Mapping[tuple[str, str, int], bool] | None = None,
    resamples: int = RESAMPLES,
) -> Signals:
    """Look at every number of the small model's answers.

    Args:
        small: answers that it wrote alone.
        large: whether the large model's answer to the same question and seed is right, where it is
            known.
        resamples: of the bootstrap over problems.
    """
    judged = [answer for answer in small if answer.correct is not None]
    look = _Look(judged, large or {}, resamples)
    answers: list[Told] = []
    absent: dict[str, None] = {}
    for number in scores():
        try:
            answers.append(look.answers(number, judged))
        except Absent as missing:
            absent[str(missing)] = None
    labelled = [answer for answer in judged if answer.right]
    steps = []
    for name, each in scores_of_steps() if labelled else ():
        try:
            steps.append(look.steps(name, labelled, each))
        except Absent as missing:
            absent[str(missing)] = None
    return Signals(_ranked(answers), _ranked(steps), list(absent))


def _ranked(found: Sequence[Told]) -> list[Told]:
    return sorted(found, key=lambda one: -np.nan_to_num(one.auroc.value, nan=-1.0))


class _Look:
    """Right and wrong by problem, over resamples of the problems."""

    def __init__(
        self,
        answers: Sequence[AnswerRecord],
        large: Mapping[tuple[str, str, int], bool],
        resamples: int,
    ) -> None:
        names = [(a.domain, a.problem) for a in answers]
        problems = list(dict.fromkeys(names))
        self._place = {name: i for i, name in enumerate(problems)}
        self._at = np.array([self._place[name] for name in names], dtype=np.int64)
        self._right = np.array([bool(a.correct) for a in answers])
        self._large = [large.get((a.domain, a.problem, a.seed)) for a in answers]
        # What is cut off is not judged and stays with the small model.
        self._ended = np.array([a.stop_reason == "eos" for a in answers])
        self._began = self._ended | np.array([len(a.steps) > 1 for a in answers], dtype=bool)
        boot = Bootstrap([domain for domain, _ in problems], resamples)
        # How often each problem counts: [1 + resamples, problems].
        self._counts = boot.sums(np.eye(len(problems)))

    def answers(self, number: AnswerNumber, answers: Sequence[AnswerRecord]) -> Told:
        values = np.array([number.of(answer) for answer in answers], dtype=np.float64)
        sent = self._half_sent(number.name, values) if number.name.startswith("corea") else None
        told = self._told(number.name, number.what, values, self._right, self._at, sent)
        return replace(told, thresholds=self._thresholds(number, values))

    def _thresholds(self, number: AnswerNumber, values: Array) -> list[Threshold]:
        """Halfway between two numbers that occur, so that rounding decides nothing."""
        known = np.unique(values[np.isfinite(values)])
        cuts = (known[:-1] + known[1:]) / 2
        ranked = np.sort(np.nan_to_num(values, nan=-np.inf))  # without a number, none is sure
        shares = 1 - np.searchsorted(ranked, cuts) / max(1, len(values))
        found = []
        for share in STAYING if len(cuts) else ():
            cut = float(cuts[np.abs(shares - share).argmin()])
            left = values >= cut
            right = float(self._right[left].mean()) if left.any() else float("nan")
            found.append(Threshold(number.threshold(cut), float(left.mean()), right))
        return found

    def steps(self, name: str, answers: Sequence[AnswerRecord], score: StepScore) -> Told:
        values, right, at = [], [], []
        for answer in answers:
            for value, label in zip(score(answer), answer.right, strict=True):
                if label is not None:
                    values.append(value)
                    right.append(label)
                    at.append(self._place[answer.domain, answer.problem])
        return self._told(name, "", np.array(values), np.array(right), np.array(at))

    def _told(
        self,
        name: str,
        what: str,
        values: Array,
        right: np.ndarray,
        at: np.ndarray,
        half_sent: Interval | None = None,
    ) -> Told:
        known = ~np.isnan(values)
        values, right, at = values[known], right[known], at[known]
        good, bad = int(right.sum()), int((~right).sum())
        samples = np.full(len(self._counts), np.nan)
        if good and bad:
            for start in range(0, len(samples), _CHUNK):
                weights = self._counts[start : start + _CHUNK][:, at]
                samples[start : start + _CHUNK] = weighted_auroc(values, right, weights)
        order = np.argsort(-values, kind="stable")
        half = len(order) // 2
        surest = tuple(
            float(right[some].mean()) if len(some) else float("nan")
            for some in (order[:half], order[half:])
        )
        auroc = mean_share(samples, min(good, bad)) if good and bad else interval(samples)
        return Told(name, what, auroc, good, bad, (surest[0], surest[1]), half_sent)

    def _half_sent(self, name: str, values: Array) -> Interval | None:
        if not self._large or any(answer is None for answer in self._large):
            return None
        judged = self._began if name.endswith("over=first") else self._ended
        confidence = np.where(judged, np.nan_to_num(values, nan=-np.inf), np.inf)
        order = np.argsort(confidence, kind="stable")
        sent = np.zeros(len(order), dtype=bool)
        sent[order[: len(order) // 2]] = True
        sent &= judged
        right = np.where(sent, np.array(self._large, dtype=bool), self._right).astype(np.float64)
        of, n = (np.bincount(self._at, x, self._counts.shape[1]) for x in (right, None))
        samples = (self._counts @ (of / n)) / self._counts.sum(1)
        return mean_share(samples, len(n))
