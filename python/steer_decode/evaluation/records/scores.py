"""Numbers by which routers judge the small model's own texts.

A router that hands over inside an answer writes another text from there on. Up to its first
hand-over the text is the small model's own, so the answers that it would leave to the small model
altogether, at any threshold, are known: those whose least sure place is sure enough. That place is
a number of each answer, and it is what is looked at here; a cascade of whole questions looks at a
sum of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ...core.signals import SIGNALS
from ...policies.query_cascade import OVER, summed_up
from .record import AnswerRecord, Array

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
    # A step judges the one behind it; step 0 itself as well, once it has closed.
    means = step_means(answer, confidences(answer, signal))
    judge = means[:-1] if len(means) > 1 or not answer.closed else means
    return float(judge.min()) if len(judge) else np.inf


def _cascade(answer: AnswerRecord, signal: str, over: str) -> float:
    return summed_up(step_means(answer, confidences(answer, signal)).tolist(), over)


def _lowest_tokens(answer: AnswerRecord, signal: str) -> float:
    values = np.sort(confidences(answer, signal))
    return float(values[: max(1, round(_LOWEST * len(values)))].mean())


def _graded_tokens(answer: AnswerRecord) -> float:
    large, end = answer.views["large"], _closed_tokens(answer)
    doubted = large.logprob[:end][large.likeliest[:end] != answer.ids[:end]]
    return float(doubted.min()) if len(doubted) else np.inf


def _graded_steps(answer: AnswerRecord) -> float:
    means = step_means(answer, answer.views["large"].logprob)
    read = means if answer.closed else means[:-1]
    return float(read.min()) if len(read) else np.inf


def _closed_tokens(answer: AnswerRecord) -> int:
    """Tokens up to the end of the last step that closed: a step that was cut off is not read."""
    return len(answer) if answer.closed else int(answer.starts[-1])


@dataclass(frozen=True)
class AnswerNumber:
    """A number of each answer that a router goes by.

    Attributes:
        name: of the router, as a specification without its threshold.
        what: in words.
        of: the number, higher is surer.
        signal: whose unit it has; None for a log-probability.
    """

    name: str
    what: str
    of: Score
    signal: str | None = None

    def threshold(self, number: float) -> float:
        """The router's threshold for a least ``number``."""
        return number if self.signal is None else SIGNALS[self.signal].confidence(number)


def scores() -> Iterator[AnswerNumber]:
    """Every number of an answer."""
    for s in SIGNALS:
        first = partial(_first_token, signal=s)
        yield AnswerNumber(f"first-token:signal={s}", "least sure first token of a step", first, s)
        steps = partial(_steer, signal=s)
        yield AnswerNumber(
            f"steer:signal={s}", "least sure step that judges, by its mean", steps, s
        )
        for over in OVER:
            summed = partial(_cascade, signal=s, over=over)
            yield AnswerNumber(f"corea:signal={s}:over={over}", f"steps' means, {over}", summed, s)
        lowest = partial(_lowest_tokens, signal=s)
        what = "mean of the least sure tenth of the tokens"
        yield AnswerNumber(f"lowest tenth:signal={s}", what, lowest, s)
    what = "the large model's least likely token, its likeliest ones left aside"
    yield AnswerNumber("both-sides:sure=1", what, _graded_tokens)
    what = "the large model's least likely step, by its mean log-probability"
    yield AnswerNumber("both-sides:sure=1:fix=step", what, _graded_steps)


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
