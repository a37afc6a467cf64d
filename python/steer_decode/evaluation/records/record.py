"""Both models' view of every token of an answer.

A record is data of one text. Whoever wrote a token, both models are asked what they make of it
where it stands, so that a rule that compares them can be tried without running either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...core.sampling import Sampling
from ...core.shape import ModelShape
from ...core.transcript import Writer
from ...errors import SteerError

Array = NDArray[np.float64]
Ids = NDArray[np.int64]

TOP = 8


class Absent(SteerError):
    """A figure that these records do not have."""


@dataclass(frozen=True)
class TokenView:
    """What one model makes of T tokens of a text.

    Everything is read from raw logits, before temperature and cuts, but for ``drawn``. Natural
    logarithms throughout; -inf is a probability of 0.

    Attributes:
        logprob: [T], of the token that stands there.
        top_ids: [T, k], the likeliest tokens, likeliest first.
        top_logprobs: [T, k], theirs.
        max_logit: [T]; None where the source does not give it.
        entropy: [T], in nats; likewise.
        drawn: [T], log-probability of the token after temperature and cuts; None where it is
            ``logprob`` or nothing is drawn.
    """

    logprob: Array
    top_ids: Ids
    top_logprobs: Array
    max_logit: Array | None = None
    entropy: Array | None = None
    drawn: Array | None = None

    @property
    def likeliest(self) -> Ids:
        """[T], the likeliest token at each place."""
        return self.top_ids[:, 0]

    @property
    def max_prob(self) -> Array:
        """[T], probability of the likeliest token."""
        return np.exp(self.top_logprobs[:, 0])

    @property
    def margin(self) -> Array:
        """[T], the likeliest token's probability minus the second's."""
        top = np.exp(self.top_logprobs[:, :2])
        return top[:, 0] - (top[:, 1] if top.shape[1] > 1 else 0.0)

    @property
    def lse(self) -> Array:
        """[T], log-sum-exp of the logits.

        It is the largest logit minus its log-probability.

        Raises:
            Absent: no logits were recorded.
        """
        return self.value("max-logit") - self.top_logprobs[:, 0]

    def value(self, signal: str) -> Array:
        """[T], one of the built-in signals by name.

        Raises:
            Absent: the source does not give it.
        """
        found: dict[str, Array | None] = {
            "max-logit": self.max_logit,
            "max-prob": self.max_prob,
            "entropy": self.entropy,
            "margin": self.margin,
        }
        value = found[signal]
        if value is None:
            raise Absent(f"these records have no {signal}, which their source does not give")
        return value

    def __len__(self) -> int:
        return len(self.logprob)


class RecordKey(NamedTuple):
    """What a record is the record of."""

    router: str
    domain: str
    problem: str
    seed: int


@dataclass(frozen=True)
class AnswerRecord:
    """One finished answer of T tokens.

    Attributes:
        router: as the results call it.
        spec: the router's specification.
        domain, problem, seed: what was asked, and with which draws.
        correct: whether the answer is right; None where nobody said.
        stop_reason: as in a trace.
        prompt_tokens: tokens that stand before the answer.
        text: of the answer.
        ids: [T].
        writers: [T] letters, "S" or "L", who wrote each token.
        steps: tokens of each step; they sum to T.
        closed: whether the last step ended by itself, and was not cut off.
        right: of each step, whether it is right, None where that cannot be told; empty where none
            can be.
        views: of either model.
    """

    router: str
    spec: str
    domain: str
    problem: str
    seed: int
    correct: bool | None
    stop_reason: str
    prompt_tokens: int
    text: str
    ids: Ids
    writers: str
    steps: Sequence[int]
    closed: bool
    views: Mapping[Writer, TokenView]
    right: Sequence[bool | None] = ()

    @property
    def key(self) -> RecordKey:
        return RecordKey(self.router, self.domain, self.problem, self.seed)

    @property
    def alone(self) -> Writer | None:
        """The model whose own text it is, by the router.

        None for any other router, also where its answer happens to be of one model: what a router
        leaves to one model is a selection.
        """
        return {"small": "small", "large": "large"}.get(self.spec)  # type: ignore[return-value]

    @cached_property
    def starts(self) -> Ids:
        """Where each step begins."""
        return np.cumsum([0, *self.steps[:-1]]) if self.steps else np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class RecordHeader:
    """What all records of a file share.

    Attributes:
        source: "steer eval" or "vllm".
        pair: fingerprint of the pair; None where the source does not tell weights apart.
        vocabulary: digest of the tokenizer's vocabulary.
        vocab_size: ids that both models know.
        top: likeliest tokens that are kept, k.
        sampling: how tokens were drawn.
        names: of the models, for the reader.
        shapes: sizes of the models, which costs follow from; empty where they are not known.
        options: how the questions were asked, beyond the sampling.
    """

    source: str
    pair: str | None
    vocabulary: str
    vocab_size: int
    top: int
    sampling: Sampling
    names: Mapping[Writer, str] = field(default_factory=dict)
    shapes: Mapping[Writer, ModelShape] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Records:
    """A file of records, or several of one pair."""

    header: RecordHeader
    answers: Sequence[AnswerRecord]

    def by(self, writer: Writer) -> list[AnswerRecord]:
        """The texts that ``writer`` wrote alone.

        One for each question and seed.
        """
        found: dict[tuple[str, str, int], AnswerRecord] = {}
        for answer in self.answers:
            if answer.alone == writer and len(answer):
                found.setdefault((answer.domain, answer.problem, answer.seed), answer)
        return list(found.values())
