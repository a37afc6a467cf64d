"""Ways to spend with the router ``both-sides``.

And what each would bring. A schedule leads from the small model alone to the large one, at the
thresholds that lie between. What a place on it would cost, and how often the large model would
agree with the whole answer, is counted on recorded drafts: each was graded by the large model where
the answer so far had its consent. So nothing is run, and what follows from a draft that stays
against its will is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.shape import ModelShape
from ..core.transcript import WRITERS, Writer
from ..policies.fitted.both_sides import COSTS, Thresholds
from ..util.numbers import Array, area
from .ledger import Ledger

QUANTILES = (0.03, 0.07, 0.12, 0.18, 0.25, 0.35, 0.5, 0.7)
HOLDS = (0.0, 0.25, 0.5, 1.0)  # in standard deviations of the first token's signal
SURE = (0.3, 0.5, 0.7, 0.9)  # quantiles of drafts
Books = dict[Writer, Ledger]


@dataclass(frozen=True)
class Schedule:
    """Thresholds from the small model alone to the large one.

    ``fix`` says what the large model writes of a draft that it refuses, "token" or "step".
    """

    places: Sequence[Thresholds]
    fix: str = "step"


@dataclass(frozen=True)
class Draft:
    """A step as the small model wrote it.

    Attributes:
        first_confidence: at its first token.
        confidence: over its tokens.
        grade: its mean log-probability under the large model, in nats.
        worst: the least log-probability of those tokens that are not its likeliest; 0 without any.
        token_count: how many it has.
        agrees: the large model consents.
        foreign: its tokens that are not the large model's likeliest.
        mends: if it was mended, at which token each time, and how many tokens the step then had.
    """

    first_confidence: float
    confidence: float
    grade: float
    worst: float
    token_count: int
    agrees: bool
    foreign: Sequence[int] = ()
    mends: Sequence[tuple[int, int]] = ()

    @property
    def length(self) -> int:
        """Tokens of the step that stays in the end."""
        return self.mends[-1][1] if self.mends else self.token_count


@dataclass(frozen=True)
class RecordedDrafts:
    """The drafts of one answer, and its prompt's length."""

    prompt_length: int
    drafts: Sequence[Draft]


def schedules(
    answers: Sequence[RecordedDrafts], keep: float, lowest: float, highest: float
) -> list[Schedule]:
    """All ways that are compared.

    Args:
        keep: mean log-probability from which on the large model consents.
        lowest, highest: below and above every value of the signal.
    """
    drafts = [draft for answer in answers for draft in answer.drafts]
    first = np.array([draft.first_confidence for draft in drafts])
    whole = np.array([draft.confidence for draft in drafts])
    grades = np.array([draft.grade for draft in drafts])
    never = float(grades.min()) - 1
    lost = [*np.quantile(first, QUANTILES).tolist(), highest]
    doubt = [*np.quantile(whole, QUANTILES).tolist(), lowest]
    found = []
    for hold in HOLDS:
        more = hold * float(first.std())
        # Unread: before the step alone, or with the same quantile of drafts taken back.
        found.append(Schedule([Thresholds(lowest, never, v, lowest, more) for v in lost]))
        both = zip(lost, doubt, strict=True)
        found.append(Schedule([Thresholds(w, never, v, w, more) for v, w in both]))
    found.append(Schedule([Thresholds(w, never, lowest, w, 0.0) for w in doubt[:-1]]))
    worst = np.array([draft.worst for draft in drafts])
    refused = {"step": grades[grades < keep], "token": worst[worst < 0]}
    for fix, values in refused.items():
        keeps = [*np.quantile(values, (0.25, 0.5, 0.75)).tolist()] if len(values) else []
        for sure in (highest, *np.quantile(whole, SURE).tolist()):
            # Read: first what the large model likes least is refused, then what looks lost.
            read = [Thresholds(sure, value, lowest, lowest, 0.0) for value in (*keeps, keep)]
            rest = [Thresholds(max(sure, v), keep, v, lowest, 0.0) for v in lost]
            found.append(Schedule([*read, *rest], fix))
    return found


class Forecast:
    """What thresholds would bring on recorded answers.

    Args:
        answers: drafts that were all graded.
        shapes: of both models.
    """

    def __init__(self, answers: Sequence[RecordedDrafts], shapes: dict[Writer, ModelShape]) -> None:
        self._answers = answers
        self._shapes = shapes
        lowest, highest = -np.inf, np.inf
        small = Thresholds(lowest, lowest, lowest, lowest, 0.0)
        large = Thresholds(highest, 0.0, highest, lowest, 0.0)
        self.ends = (self.of(small, "step"), self.of(large, "step"))

    def of(self, thresholds: Thresholds, fix: str) -> tuple[float, dict[str, float]]:
        """Share of answers with the large model's consent, mean costs.

        In such an answer no draft stays that it does not consent to.
        """
        consent = 0
        costs = dict.fromkeys(COSTS, 0.0)
        for answer in self._answers:
            books: Books = {writer: Ledger(self._shapes[writer]) for writer in WRITERS}
            consent += all(self._kept(answer, thresholds, fix, books))
            costs["papers"] += sum(book.flops_paper for book in books.values())
            costs["processed"] += sum(book.flops for book in books.values())
            costs["bytes"] += sum(book.bytes_read for book in books.values())
        n = len(self._answers)
        return consent / n, {key: value / n for key, value in costs.items()}

    def _kept(
        self, answer: RecordedDrafts, t: Thresholds, fix: str, books: Books
    ) -> Iterator[bool]:
        """For each step whether the large model consents to it; does the books on the way."""
        at, last = answer.prompt_length, "small"
        found = []
        for draft in answer.drafts:
            if t.lost > -np.inf:
                books["small"].catch_up(at)
            bar = t.lost + (t.hold if last == "large" else 0.0)
            writer: Writer = "large" if draft.first_confidence < bar else "small"
            length, agrees = draft.length, draft.agrees
            if writer == "small":
                books["small"].write(at, draft.token_count)
                length = draft.token_count
                if draft.confidence < t.doubt:
                    writer = "large"
                elif draft.confidence < t.sure:
                    books["large"].grade(at, draft.token_count, draft.foreign)
                    if fix == "step":
                        writer = "small" if draft.grade >= t.keep else "large"
                    elif draft.worst < t.keep:
                        length, agrees = self._mended(draft, at, books), True
                if writer == "large":
                    length = draft.length
                    for book in books.values():
                        book.roll_back(at)
            if writer == "large":
                books["large"].write(at, length)
            found.append(agrees or writer == "large")
            at, last = at + length, writer
        return iter(found)

    def _mended(self, draft: Draft, at: int, books: Books) -> int:
        """The books of a draft that is mended as it was on record; the length of the step then."""
        nexts = [*(token for token, _ in draft.mends[1:]), draft.length]
        for (token, length), following in zip(draft.mends, nexts, strict=True):
            for book in books.values():
                book.roll_back(at + token)
            books["large"].write(at + token, 1)
            behind = at + token + 1
            if rest := length - token - 1:
                books["small"].write(behind, rest)
                books["large"].grade(behind, rest, [at + following - behind])
        return draft.length

    def area(self, schedule: Schedule) -> dict[str, float]:
        """Area under the curve of consent against each cost.

        Both models alone are at its ends.
        """
        places = [self.of(thresholds, schedule.fix) for thresholds in schedule.places]
        points = [self.ends[0], *places, self.ends[1]]
        consent: Array = np.array([[value for value, _ in points]])
        return {
            cost: float(area(np.array([[costs[cost] for _, costs in points]]), consent)[0])
            for cost in COSTS
        }
