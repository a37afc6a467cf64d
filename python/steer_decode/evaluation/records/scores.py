"""How well signals tell right answers from wrong ones.

On texts of the small model. A router that hands over inside an answer writes another text from
there on. Up to its first hand-over the text is the small model's own, so the answers that it would
leave to the small model altogether, at any threshold, are known: those whose least sure place is
sure enough. That place is a number of each answer, and it is what is looked at here; a cascade of
whole questions looks at a sum of them. AUROC is the probability that a right answer (or step) has
the higher number, ties counted half: 0.5 says nothing, 1 says all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...core.signals import SIGNALS
from ...policies.query_cascade import OVER, summed_up
from ...util.numbers import weighted_auroc
from ..report.bootstrap import RESAMPLES, Bootstrap, Interval, interval, mean_share
from .record import Absent, AnswerRecord, Array

_CHUNK = 200  # resamples at a time
_LOWEST = 0.1  # of an answer's tokens
Score = Callable[[AnswerRecord], float]
StepScore = Callable[[AnswerRecord], Sequence[float]]


def confidences(answer: AnswerRecord, signal: str) -> Array:
    """[T], the small model's confidence before each token."""
    value = answer.views["small"].value(signal)
    return value if SIGNALS[signal].higher_is_surer else -value


def step_means(answer: AnswerRecord, values: Array) -> Array:
    """The mean over each step of ``values`` [T]."""
    return np.add.reduceat(values, answer.starts) / np.array(answer.steps, dtype=np.float64)


def _first_token(answer: AnswerRecord, signal: str) -> float:
    return float(confidences(answer, signal)[answer.starts].min())


def _steer(answer: AnswerRecord, signal: str) -> float:
    # The score of the last step judges nothing: no step comes behind it.
    means = step_means(answer, confidences(answer, signal))[:-1]
    return float(means.min()) if len(means) else np.inf


def _cascade(answer: AnswerRecord, signal: str, over: str) -> float:
    return summed_up(step_means(answer, confidences(answer, signal)).tolist(), over)


def _lowest_tokens(answer: AnswerRecord, signal: str) -> float:
    values = np.sort(confidences(answer, signal))
    return float(values[: max(1, round(_LOWEST * len(values)))].mean())


def _graded_tokens(answer: AnswerRecord) -> float:
    large = answer.views["large"]
    doubted = large.logprob[large.likeliest != answer.ids]
    return float(doubted.min()) if len(doubted) else np.inf


def _graded_steps(answer: AnswerRecord) -> float:
    return float(step_means(answer, answer.views["large"].logprob).min())


def scores() -> Iterator[tuple[str, str, Score]]:
    """Every number of an answer.

    The router that goes by it, in words what it is, and the number.
    """
    for signal in SIGNALS:
        with_signal = f"signal={signal}"
        yield (
            f"first-token:{with_signal}",
            "least sure first token of a step",
            partial(_first_token, signal=signal),
        )
        yield (
            f"steer:{with_signal}",
            "least sure step but the last, by its mean",
            partial(_steer, signal=signal),
        )
        for over in OVER:
            yield (
                f"corea:{with_signal}:over={over}",
                f"steps' means, {over}",
                partial(_cascade, signal=signal, over=over),
            )
        yield (
            f"lowest tenth:{with_signal}",
            "mean of the least sure tenth of the tokens",
            partial(_lowest_tokens, signal=signal),
        )
    yield (
        "both-sides:sure=1",
        "the large model's least likely token, its likeliest ones left aside",
        _graded_tokens,
    )
    yield (
        "both-sides:sure=1:fix=step",
        "the large model's least likely step, by its mean log-probability",
        _graded_steps,
    )


def scores_of_steps() -> Iterator[tuple[str, StepScore]]:
    """Every number of a step.

    In words what it is, and the number of all steps of an answer.
    """
    for signal in SIGNALS:
        yield f"{signal} of the first token", partial(_first_of_steps, signal=signal)
        yield f"{signal}, mean", partial(_mean_of_steps, signal=signal)
    yield "log-probability under the large model, mean", _grade_of_steps


def _first_of_steps(answer: AnswerRecord, signal: str) -> list[float]:
    return confidences(answer, signal)[answer.starts].tolist()


def _mean_of_steps(answer: AnswerRecord, signal: str) -> list[float]:
    return step_means(answer, confidences(answer, signal)).tolist()


def _grade_of_steps(answer: AnswerRecord) -> list[float]:
    return step_means(answer, answer.views["large"].logprob).tolist()


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
    """

    name: str
    what: str
    auroc: Interval
    right: int
    wrong: int
    surest: tuple[float, float]
    half_sent: Interval | None = None


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
    for name, what, score in scores():
        try:
            values = np.array([score(answer) for answer in judged], dtype=np.float64)
        except Absent as missing:
            absent[str(missing)] = None
            continue
        answers.append(look.answers(name, what, values))
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

    def answers(self, name: str, what: str, values: Array) -> Told:
        sent = self._half_sent(name, values) if name.startswith("corea") else None
        return self._told(name, what, values, self._right, self._at, sent)

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
