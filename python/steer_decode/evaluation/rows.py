"""One answer of an evaluation, as kept on disk.

Its steps are with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, NamedTuple

from ..core.trace import Trace
from ..core.transcript import Writer
from ..util.text import short
from .records.record import AnswerRecord


class Key(NamedTuple):
    """What one answer is the answer of."""

    router: str
    domain: str
    problem: str
    seed: int


@dataclass(frozen=True)
class StepRecord:
    """What is kept of a step; fields as in :class:`~steer_decode.core.trace.Step`.

    ``tokens`` is their number and ``others`` that of those which the other model wrote; ``patches``
    says where in the text those begin and end. ``drafts`` has each draft that the large model
    verified in it: its tokens, and how many of them stayed. ``right`` says whether the step is
    right where the task can tell; it is None after a wrong step, and everywhere where only the
    whole answer can be judged. ``scores`` has the step's score under every built-in signal, where
    the small model wrote alone.
    """

    writer: Writer
    text: str
    tokens: int
    score: float | None = None
    before: float | None = None
    posterior: float | None = None
    prefilled: int = 0
    discarded: bool = False
    others: int = 0
    inherited: int = 0
    refused: int | None = None
    patches: Sequence[tuple[int, int]] = ()
    drafts: Sequence[tuple[int, int]] = ()
    right: bool | None = None
    scores: Mapping[str, float | None] | None = None

    @property
    def large_tokens(self) -> int:
        return self.tokens - self.others if self.writer == "large" else self.others

    def to_dict(self) -> dict[str, Any]:
        """Plain data without what is at its default.

        For there are many steps.
        """
        values = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}
        return {name: value for name, (value, default) in values.items() if value is not default}


@dataclass(frozen=True)
class ResultRow:
    """One answer of one router to one problem.

    Costs are totals of that answer. ``error`` is what the checker raised, if it did; the answer
    then counts as wrong. ``first_step`` has the costs up to the end of step 0, under the names of
    the whole answer's, where the small model wrote alone and step 0 was not cut off.
    ``large_passes`` is how often the large model ran; folders of an older version do not tell, nor
    what was drafted. ``record`` is
    what both models make of every token, where that was asked for; it has a file of its own.
    """

    router: str
    domain: str
    problem: str
    seed: int
    correct: bool
    flops_paper: float
    flops_processed: float
    bytes_read: float
    seconds: float
    hand_overs: int
    stop_reason: str
    trace: Sequence[StepRecord] = field(default_factory=list)
    difficulty: int | None = None
    error: str = ""
    first_step: Mapping[str, float] = field(default_factory=dict)
    large_passes: int | None = None
    record: AnswerRecord | None = field(default=None, repr=False, compare=False)

    @property
    def key(self) -> Key:
        return Key(self.router, self.domain, self.problem, self.seed)

    @cached_property
    def kept(self) -> list[StepRecord]:
        return [step for step in self.trace if not step.discarded]

    @cached_property
    def text(self) -> str:
        return "".join(step.text for step in self.kept)

    @cached_property
    def tokens(self) -> int:
        return sum(step.tokens for step in self.kept)

    @cached_property
    def large_tokens(self) -> int:
        return sum(step.large_tokens for step in self.kept)

    @property
    def steps(self) -> int:
        return len(self.kept)

    @property
    def large_steps(self) -> int:
        return sum(step.writer == "large" for step in self.kept)

    @property
    def discarded_tokens(self) -> int:
        # What stays of a draft is counted by the step that took its place.
        drafted = sum(step.tokens for step in self.trace if step.discarded)
        return drafted - sum(step.inherited for step in self.trace)

    @cached_property
    def drafts(self) -> list[tuple[int, int]]:
        """Verified drafts: tokens, and how many stayed."""
        return [(drafted, stayed) for step in self.trace for drafted, stayed in step.drafts]

    @property
    def drafted_tokens(self) -> int:
        return sum(drafted for drafted, _ in self.drafts)

    @property
    def stayed_tokens(self) -> int:
        return sum(stayed for _, stayed in self.drafts)

    @property
    def without_posterior(self) -> int:
        """How many steps were judged by no mixture.

        Scores were wanting, or two components.
        """
        # What is cut off at the end is not judged at all.
        judged = self.trace if self.stop_reason == "eos" else self.trace[:-1]
        return sum(step.posterior is None for step in judged)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; :meth:`from_dict` is its inverse."""
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "record"}
        return {**record, "trace": [step.to_dict() for step in self.trace]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ResultRow:
        """Read what :meth:`to_dict` wrote.

        TypeError or KeyError where it is something else.
        """
        return cls(**{**data, "trace": [StepRecord(**step) for step in data["trace"]]})


def step_records(
    trace: Trace, scores: Sequence[Mapping[str, float]] | None = None
) -> list[StepRecord]:
    """What is kept of the steps of a trace.

    A score that is not finite is none. ``scores`` are of
    :func:`~steer_decode.evaluation.step_scores.step_scores`, one entry a step.
    """
    each = scores or [{}] * len(trace.steps)
    return [
        StepRecord(
            writer=step.writer,
            text=step.text,
            tokens=len(step.token_ids),
            score=_finite(step.score),
            before=_finite(step.before),
            posterior=_finite(step.posterior),
            prefilled=step.prefilled,
            discarded=step.discarded,
            others=len(step.others),
            inherited=step.inherited,
            refused=step.refused,
            patches=step.patches or (),
            drafts=step.drafts or (),
            scores={name: _finite(value) for name, value in more.items()} or None,
        )
        for step, more in zip(trace.steps, each, strict=True)
    ]


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 6)


@dataclass(frozen=True)
class Asked:
    """A question as it was asked and judged.

    One problem of a folder must stay the same.
    """

    domain: str
    problem: str
    prompt: str
    answer: str
    difficulty: int | None = None
    checker: str = ""

    def change(self, new: Asked) -> str:
        """The first field in which ``new`` differs, in words."""
        for field_ in fields(self):
            was, now = getattr(self, field_.name), getattr(new, field_.name)
            if was != now:
                return f"its {field_.name} was {short(was)}, now {short(now)}"
        return ""
