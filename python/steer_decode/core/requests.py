"""What an answer asks of the two models.

What it is told, and what an engine may see of it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from steer_kernels import LogitStats

from .drafting import Drafting
from .gate_rule import GateRule
from .log_probs import LogProbs
from .sampling import Sampling
from .signals import Signal
from .transcript import Transcript, Writer

if TYPE_CHECKING:
    from transformers import LogitsProcessorList

    from .boundary import StepBoundary


class Write(NamedTuple):
    """Tokens to append, to the step's end at most.

    At least one. Told: a list of `Draw`.
    """

    writer: Writer


class Look(NamedTuple):
    """The small model's view of the next token.

    Nothing is written. Told: `Looked`.
    """


class Read(NamedTuple):
    """The large model's view of the last ``tokens``, a draft.

    Told: `Graded`.
    """

    tokens: int


@dataclass(frozen=True)
class Question:
    """A question to the large model about a draft.

    It chooses between the answers that are given. Told: `Graded`, a log-probability for each
    choice.

    Attributes:
        ids: tokens that it reads behind the transcript, and that are forgotten again.
        choices: one token for each answer.
    """

    ids: tuple[int, ...]
    choices: tuple[int, ...]


class Verify(NamedTuple):
    """The large model's verdict on the row's drafts.

    Those are the last tokens of the transcript. Told: a list of `Draw`, those of the drafts that
    stay, with its own signal, and one token more of its own.
    """


Request = Write | Look | Read | Question | Verify


class Draw(NamedTuple):
    """A token, and the answer's signal at it.

    The signal is read off the raw logits that the token was drawn from.

    Fields:
        token, value: the id, and the signal.
        logits: of a draft, what it was drawn from, for the engine that verifies it; nobody else
            looks into it. None from an engine that has none.
        log_probs: under the model whose token it is, where the answer asks for them.
    """

    token: int
    value: float
    logits: Any = None
    log_probs: LogProbs | None = None


class Looked(NamedTuple):
    """The next token before it is written.

    Fields:
        value: the answer's signal; NaN where the verdict alone is told.
        stats: all statistics of the logits, one row; None from an engine that has none.
        draw: the token that would be written, where it has been drawn with the look.
        goes_on: the verdict, of an engine that was told the rule by which the policy looks (see
            :meth:`Row.gate_rule`): whether its model writes the step. None where the policy says.
    """

    value: float
    stats: LogitStats | None
    draw: Draw | None
    goes_on: bool | None = None


class Graded(NamedTuple):
    """Log-probabilities under the large model, and its likeliest tokens.

    One of each token, and whether it is the likeliest. To a question: of each answer, and nothing.
    """

    log_probs: list[float]
    likeliest: list[bool]


Reply = list[Draw] | Looked | Graded


@dataclass(frozen=True)
class Hooks:
    """What a caller may hang on an answer.

    As in ``generate`` of transformers.

    Attributes:
        processors: change the scores before a token is drawn; signals are read before them.
        criteria: whether the answer ends with these ids, prompt included.
    """

    processors: LogitsProcessorList | None = None
    criteria: Callable[[list[int]], bool] | None = None


class Row(Protocol):
    """An answer as the engine that writes it sees it.

    Attributes:
        transcript: the text; the engine reads it and moves its read mark.
        sampling: how tokens are drawn.
        boundary: where a step closes.
        ends: ids that end the answer.
        hooks: processors that look at every token.
        drafts: tokens at the end of the transcript that the large model has yet to verify.
        drafting: how they are drafted and which stay; None without drafts.
        proposes: what is written now is a draft.
        log_probs: how many of the likeliest tokens are wanted with each token; None for none, and
            no log-probability of the token itself.
    """

    transcript: Transcript
    sampling: Sampling
    boundary: StepBoundary
    ends: frozenset[int]
    hooks: Hooks
    drafts: Sequence[Draw]
    drafting: Drafting | None
    proposes: bool
    log_probs: int | None

    @property
    def signal(self) -> Signal:
        """What is read off raw logits at each token."""

    @property
    def step_index(self) -> int:
        """Which step is open, from 0."""

    def gate_rule(self, writer: Writer) -> GateRule | None:
        """Where ``writer`` goes on writing, if numbers alone say it.

        An engine may go by it and write beyond the step's end.
        """

    @property
    def place(self) -> str:
        """Where the next token stands, for messages.

        ``token 3 of step 2``.
        """

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
        """The next ``n`` uniform numbers in [0, 1).

        Each token that is appended uses one up. Drafts have numbers of their own: what verifies a
        token must not depend on what drew it.
        """


def kind(row: Row) -> Hashable:
    """What rows share that write several tokens in a call.

    They must have it in common.
    """
    return row.sampling, row.signal, row.boundary, row.ends
