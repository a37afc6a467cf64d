"""Follows a router through a bank of steps: what it writes, whether that is right, the cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from steer_decode.ledger import Ledger
from steer_decode.transcript import WRITERS, Writer
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


def follow(bank: StepBank, problem: int, setting: Setting) -> Iterator[Place]:
    """Yields the places of an answer whose steps are wanted; returns its :class:`Outcome`."""
    prompt = len(bank.prompts[problem])
    limit = min(bank.max_new_tokens, bank.pair.max_length - prompt)
    books = {w: Ledger(bank.pair.shapes[w]) for w in WRITERS}
    ids: tuple[int, ...] = ()
    used = large_steps = large_tokens = hand_overs = wasted = 0
    last: Writer | None = None
    chance = bool(bank.sampling.temperature)
    done = False
    while not done:
        writer: Writer = "small"
        place = Place(problem, ids, used if chance else 0, "small")
        yield place
        draft = bank.steps[place]
        start = prompt + len(ids)
        if setting.before and large_steps < setting.most:
            books["small"].catch_up(start)
            bar = setting.lost + (setting.hold if last == "large" else 0.0)
            if draft.signals[setting.before][0] < bar:
                writer = "large"
        if writer == "small":
            hand_overs += last == "large"
            last = "small"
            books["small"].write(start, len(draft.ids))
            used += len(draft.ids)
            if (
                draft.closed
                and large_steps < setting.most
                and not _stays(setting, draft, books["large"], start)
            ):
                writer = "large"
                wasted += len(draft.ids)
                for book in books.values():
                    book.roll_back(start)
            else:
                ids += draft.ids
                done = draft.ended or len(ids) >= limit
        if writer == "large":
            hand_overs += last == "small"
            last = "large"
            place = Place(problem, ids, used if chance else 0, "large")
            yield place
            step = bank.steps[place]
            books["large"].write(start, len(step.ids))
            used += len(step.ids)
            ids += step.ids
            large_tokens += len(step.ids)
            large_steps += 1
            done = step.ended or len(ids) >= limit
    text = bank.pair.tokenizer.decode(list(ids), skip_special_tokens=True)
    costs = (
        sum(book.flops_paper for book in books.values()),
        float(sum(book.flops for book in books.values())),
        sum(book.bytes_read for book in books.values()),
    )
    right = bool(bank.tasks[problem].check(text))
    return Outcome(right, costs, len(ids), large_tokens, hand_overs, wasted)


def _stays(setting: Setting, draft: Written, large: Ledger, start: int) -> bool:
    if setting.after:
        value = draft_value(setting.after, draft)
        if value < setting.doubt:
            return False
        if value >= setting.sure:
            return True
    if setting.keep == -math.inf:
        return True
    large.grade(start, len(draft.ids), (i for i, own in enumerate(draft.likeliest) if not own))
    return grade_value(setting.grade, draft) >= setting.keep


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
