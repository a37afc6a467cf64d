"""What a conversation asks of the models and of its policy, and what it is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from transformers import LogitsProcessorList, StoppingCriteriaList

from steer_kernels import LogitStats

from ..policies import Question, Verdict
from .trace import Step
from .transcript import Writer


class Ask(NamedTuple):
    """What a conversation wants of a model: tokens to append, or a look at the next logits.

    With ``one`` it wants a single token, however many turns the model may run ahead.
    """

    writer: Writer
    draw: bool
    one: bool = False


class Grade(NamedTuple):
    """What the large model makes of the last ``tokens`` of the transcript, the step just closed.

    With a question: what it answers to that.
    """

    tokens: int
    question: Question | None = None


class Judge(NamedTuple):
    """A step has closed: who writes the next one, or this one again?"""

    step: Step


class Forget(NamedTuple):
    """The transcript has been cut: neither model is to know more than what is left. No reply."""


class Draw(NamedTuple):
    """A token, and the policy's signal on the raw logits that it was drawn from."""

    token: int
    value: float


class Graded(NamedTuple):
    """Log-probability of each token under the large model, and whether it is its likeliest.

    To a question: of each answer, and nothing.
    """

    log_probs: list[float]
    likeliest: list[bool]


Reply = LogitStats | list[Draw] | Graded | Verdict


@dataclass(frozen=True)
class Hooks:
    """What a caller may hang on an answer, as in ``generate`` of transformers.

    Attributes:
        processors: change the scores before a token is drawn; signals are read before them.
        criteria: end the answer.
    """

    processors: LogitsProcessorList | None = None
    criteria: StoppingCriteriaList | None = None
