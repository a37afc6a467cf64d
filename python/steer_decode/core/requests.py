"""What an answer asks of the two models, what it is told, and what an engine may see of it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from steer_kernels import LogitStats

from .sampling import Sampling
from .signals import Signal
from .transcript import Transcript, Writer

if TYPE_CHECKING:
    from transformers import LogitsProcessorList

    from .boundary import StepBoundary


class Write(NamedTuple):
    """Tokens to append: at least one, at most to the end of the step. Told: a list of `Draw`."""

    writer: Writer


class Look(NamedTuple):
    """What the small model makes of the next token; nothing is written. Told: `Looked`."""


class Read(NamedTuple):
    """What the large model makes of the last ``tokens``, a draft. Told: `Graded`."""

    tokens: int


@dataclass(frozen=True)
class Question:
    """What the large model is asked about a draft, and between which answers it may choose.

    Told: `Graded`, a log-probability for each choice.

    Attributes:
        ids: tokens that it reads behind the transcript, and that are forgotten again.
        choices: one token for each answer.
    """

    ids: tuple[int, ...]
    choices: tuple[int, ...]


Request = Write | Look | Read | Question


class Draw(NamedTuple):
    """A token, and the answer's signal on the raw logits that it was drawn from."""

    token: int
    value: float


class Looked(NamedTuple):
    """The next token before it is written.

    Fields:
        value: the answer's signal.
        stats: all statistics of the logits, one row; None from an engine that has none.
        draw: the token that would be written, where it has been drawn with the look.
    """

    value: float
    stats: LogitStats | None
    draw: Draw | None


class Graded(NamedTuple):
    """Log-probability of each token under the large model, and whether it is its likeliest.

    To a question: of each answer, and nothing.
    """

    log_probs: list[float]
    likeliest: list[bool]


Reply = list[Draw] | Looked | Graded


@dataclass(frozen=True)
class Hooks:
    """What a caller may hang on an answer, as in ``generate`` of transformers.

    Attributes:
        processors: change the scores before a token is drawn; signals are read before them.
        criteria: whether the answer ends with these ids, prompt included.
    """

    processors: LogitsProcessorList | None = None
    criteria: Callable[[list[int]], bool] | None = None


class Row(Protocol):
    """What an engine sees of an answer that it writes for.

    Attributes:
        transcript: the text; the engine reads it and moves its read mark.
        sampling: how tokens are drawn.
        signal: what is read off raw logits at each token.
        boundary: where a step closes.
        ends: ids that end the answer.
        hooks: processors that look at every token.
    """

    transcript: Transcript
    sampling: Sampling
    signal: Signal
    boundary: StepBoundary
    ends: frozenset[int]
    hooks: Hooks

    @property
    def place(self) -> str:
        """Where the next token stands, for messages: ``token 3 of step 2``."""

    @property
    def room(self) -> int:
        """Most tokens that may be written now."""

    @property
    def step_ids(self) -> list[int]:
        """Tokens of the open step."""

    @property
    def said_something(self) -> bool:
        """Whether the open step holds a letter or a digit."""

    def uniforms(self, n: int) -> list[float]:
        """The next ``n`` uniform numbers in [0, 1); each token that is appended uses one up."""


def kind(row: Row) -> Hashable:
    """What rows must have in common to write several tokens in one call."""
    return row.sampling, row.signal, row.boundary, row.ends
