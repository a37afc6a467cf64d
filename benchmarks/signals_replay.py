"""Follows a router through a bank of steps: what it writes, whether that is right, the cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from steer_decode.core.transcript import WRITERS, Writer
from steer_decode.fitting.ledger import Ledger
from steer_decode.policies.both_sides import PATIENCE
from step_bank import Place, StepBank, Written

COSTS = ("flops_paper", "flops_processed", "bytes_read")


@dataclass(frozen=True)
class Setting:
    """A router that looks before a step, after it, or both; thresholds are confidences.

    Attributes:
        before: signal of the first token, or "" for none.
        lost: below it the large model writes the step.
        hold: is added to ``lost`` after a step of the large model.
        after: how the tokens of a draft become one number, as "min-margin"; or "" for none.
        doubt: a draft below it is taken back unread.
        sure: a draft at or above it stays unread; what lies between is read by the large model.
        grade: how the large model's log-probabilities become one number: mean, min, first or agree.
        keep: a draft that was read stays at or above it.
        fix: of a draft that does not stay the large model writes the whole "step"; or the first
            "token" that is below ``keep`` and not its likeliest, and the small model goes on.
        most: steps of the large model in one answer; the rest is the small model's, unjudged.
    """

    before: str = ""
    lost: float = -math.inf
    hold: float = 0.0
    after: str = ""
    doubt: float = -math.inf
    sure: float = -math.inf
    grade: str = "mean"
    keep: float = -math.inf
    fix: str = "step"
    most: int = 10**9


AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "min": min,
    "mean": lambda values: sum(values) / len(values),
    "first": lambda values: values[0],
    "last": lambda values: values[-1],
}


def draft_value(name: str, draft: Written) -> float:
    """The confidence ``name``, as "min-margin", of a draft."""
    aggregate, _, signal = name.partition("-")
    return AGGREGATES[aggregate](draft.signals[signal])


def grade_value(name: str, draft: Written) -> float:
    """What the large model makes of a draft: of its log-probabilities, or its share of "agree"."""
    if name == "agree":
        return sum(draft.likeliest) / len(draft.likeliest)
    return AGGREGATES[name](draft.graded)


class Outcome(NamedTuple):
    """One answer: whether it is right, its costs, and where its tokens come from."""

    right: bool
    costs: tuple[float, ...]
    tokens: int
    large_tokens: int
    hand_overs: int
    wasted: int  # tokens taken back


@dataclass
class _Answer:
    """One answer as far as it has been followed."""

    bank: StepBank
    problem: int
    setting: Setting
    ids: tuple[int, ...] = ()
    used: int = 0
    large_steps: int = 0
    large_tokens: int = 0
    hand_overs: int = 0
    wasted: int = 0
    last: Writer | None = None  # who wrote the last token
    done: bool = False

    def __post_init__(self) -> None:
        self.prompt = len(self.bank.prompts[self.problem])
        self.limit = min(self.bank.max_new_tokens, self.bank.pair.max_length - self.prompt)
        self.books = {w: Ledger(self.bank.pair.shapes[w]) for w in WRITERS}

    def place(self, writer: Writer, inside: tuple[int, ...] = (), one: bool = False) -> Place:
        used = self.used if self.bank.sampling.temperature else 0
        return Place(self.problem, self.ids, used, writer, inside, one)

    def write(self, place: Place) -> Written:
        """Does the books of what is written at ``place``."""
        step = self.bank.steps[place]
        start = self.prompt + len(self.ids) + len(place.inside)
        self.books[place.writer].write(start, len(step.ids))
        self.used += len(step.ids)
        self.hand_overs += self.last not in (None, place.writer)
        self.last = place.writer
        if place.writer == "large":
            self.large_tokens += len(step.ids)
        return step

    def take_back(self, n: int, stays: int) -> None:
        """``n`` tokens, so that ``stays`` of the step are left."""
        self.wasted += n
        for book in self.books.values():
            book.roll_back(self.prompt + len(self.ids) + stays)

    def verdict(self, draft: Written, inside: int) -> bool | int:
        """Whether a draft stays, or which of its tokens the large model is to write."""
        setting = self.setting
        if not draft.closed or self.large_steps >= setting.most or not draft.ids:
            return True
        if setting.after:
            value = draft_value(setting.after, draft)
            if value < setting.doubt:
                return False
            if value >= setting.sure:
                return True
        if setting.keep == -math.inf:
            return True
        foreign = [i for i, own in enumerate(draft.likeliest) if not own]
        start = self.prompt + len(self.ids) + inside
        self.books["large"].grade(start, len(draft.ids), foreign)
        if setting.fix == "step":
            return grade_value(setting.grade, draft) >= setting.keep
        return next((i for i in foreign if draft.graded[i] < setting.keep), True)

    def close(self, ids: tuple[int, ...], ended: bool) -> None:
        self.ids += ids
        self.done = ended or len(self.ids) >= self.limit


def follow(bank: StepBank, problem: int, setting: Setting) -> Iterator[Place]:
    """Yields the places of an answer whose steps are wanted; returns its :class:`Outcome`."""
    answer = _Answer(bank, problem, setting)
    after_large = False
    while not answer.done:
        writer: Writer = "small"
        place = answer.place("small")
        yield place
        if setting.before and answer.large_steps < setting.most:
            answer.books["small"].catch_up(answer.prompt + len(answer.ids))
            bar = setting.lost + (setting.hold if after_large else 0.0)
            if bank.steps[place].signals[setting.before][0] < bar:
                writer = "large"
        stands = False
        if writer == "small":
            stands, writer = yield from _drafted(answer, place)
        if not stands:
            place = answer.place("large")
            yield place
            step = answer.write(place)
            answer.large_steps += 1
            answer.close(step.ids, step.ended)
        after_large = writer == "large"
    text = bank.pair.tokenizer.decode(list(answer.ids), skip_special_tokens=True)
    books = answer.books.values()
    costs = (
        sum(book.flops_paper for book in books),
        float(sum(book.flops for book in books)),
        sum(book.bytes_read for book in books),
    )
    right = bool(bank.tasks[problem].check(text))
    n, large = len(answer.ids), answer.large_tokens
    return Outcome(right, costs, n, large, answer.hand_overs, answer.wasted)


def _drafted(answer: _Answer, place: Place) -> Generator[Place, None, tuple[bool, Writer]]:
    """The small model writes a step from ``place`` on, mended or not.

    Returns whether something of it stands, and who wrote the end of the step or is to write it all.
    """
    inside: tuple[int, ...] = ()
    mends = 0
    while True:
        draft = answer.write(place)
        verdict = answer.verdict(draft, len(inside))
        if verdict is True:
            answer.close(inside + draft.ids, draft.ended)
            return True, "small"
        if verdict is False:
            answer.take_back(len(inside) + len(draft.ids), 0)
            answer.large_tokens -= mends
            return False, "large"
        answer.take_back(len(draft.ids) - verdict, len(inside) + verdict)
        inside += draft.ids[:verdict]
        place = answer.place("large", inside, one=mends < PATIENCE)
        yield place
        token = answer.write(place)
        if not place.one:
            answer.large_steps += 1
            answer.close(inside + token.ids, token.ended)
            return True, "large"
        mends += 1
        inside += token.ids
        if token.closed or len(answer.ids) + len(inside) >= answer.limit:
            answer.close(inside, token.ended)
            return True, "small"
        place = answer.place("small", inside)
        yield place


def outcomes(bank: StepBank, settings: Sequence[Setting]) -> list[list[Outcome]]:
    """[setting][problem]; the steps that are missing are written together, round by round."""
    running = {
        (s, p): follow(bank, p, setting)
        for s, setting in enumerate(settings)
        for p in range(len(bank.tasks))
    }
    found: list[list[Outcome]] = [[None] * len(bank.tasks) for _ in settings]  # type: ignore[list-item]
    waiting: dict[tuple[int, int], Place] = {}
    while running:
        for key, answer in list(running.items()):
            place = waiting.get(key)
            while place is None or place in bank.steps:
                try:
                    place = next(answer)
                except StopIteration as stop:
                    found[key[0]][key[1]] = stop.value
                    del running[key]
                    waiting.pop(key, None)
                    break
                waiting[key] = place
        bank.write(waiting.values())
    return found
