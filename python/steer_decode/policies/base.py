"""What a policy is: it says who writes.

Before a step, after a step, or both.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, NamedTuple

from steer_kernels import LogitStats

from ..core.drafting import Drafting
from ..core.gate_rule import GateRule
from ..core.requests import Question
from ..core.sampling import Sampling
from ..core.signals import SIGNALS, Signal
from ..core.trace import Step, Trace
from ..core.transcript import Writer
from ..models.two_models import TwoModels
from .fitted.calibration import Calibration
from .math_tokens import math_tokens

Redo = Literal["redo"]
REDO: Final = "redo"
Restart = Literal["restart"]
RESTART: Final = "restart"


class Mend(NamedTuple):
    """Token ``at`` of a step is refused.

    The other model writes it, and the step's writer goes on. What stood before it stays. A step may
    be mended more than once, each time further on. With ``rest`` the other model goes on itself to
    the end of the step, which then has to stay.
    """

    at: int
    rest: bool = False


Word = Writer | Redo | Mend | Restart


@dataclass(frozen=True)
class Verdict:
    """What a policy says of a step, with its reason.

    A policy may answer the bare word where it has no reason to give.

    Attributes:
        what: who writes the next step, or what becomes of this one.
        posterior: probability in [0, 1] that the step is a confident one; None where the policy
            fits no mixture. The loop writes it into the step.
    """

    what: Word
    posterior: float | None = None

    @classmethod
    def of(cls, answer: Word | Verdict) -> Verdict:
        """``answer``, a bare word as a verdict without a reason."""
        return answer if isinstance(answer, Verdict) else cls(answer)


@dataclass(frozen=True)
class StepStart:
    """What is known before a step is written.

    Attributes:
        index: of the step, from 0.
        writer: who writes it unless the policy says otherwise; "small" at the first.
        seed: of this answer, for policies that draw.
        stats: statistics of the small model's next-token logits, one row; None unless the policy
            looks ahead.
        trace: of this answer so far: its prompt, and all steps before this one.
        value: the policy's signal of ``stats``, which the loop has read; None likewise.
    """

    index: int
    writer: Writer
    seed: int
    stats: LogitStats | None
    trace: Trace | None = None
    value: float | None = None

    def read(self, signal: Signal) -> float | None:
        """The policy's ``signal`` of the look; None without a look.

        That is ``value``, or read off ``stats`` where a start was made by hand without it.
        """
        if self.value is not None or self.stats is None:
            return self.value
        return float(signal.read(self.stats)[0])


_JUDGES = ("after_step", "judge", "after_round")
_CHOOSES = ("before_step", "counted", *_JUDGES)


def _unsure(policy: Policy, step: Step) -> bool:
    """Of a policy that judges steps and does not say which are sure to stay."""
    return False


def _untold(policy: Policy, writer: Writer) -> GateRule | None:
    """Of a policy that chooses writers and does not say by which numbers."""
    return None


class Policy:
    """Base of all routers.

    A subclass overrides ``before_step``, ``after_step``, or both.

    Attributes:
        name: what the command line and the tables call it.
        signal: what is read off each token's logits; a step's score is its mean.
        grades: the large model reads every step of the small model before it is judged, and the
            step holds what it makes of the tokens.
        in_rounds: the answers of a cohort wait for each other at the end of every step and are
            judged together by :meth:`after_round`.
        restarts: it may answer "restart". Until it is known whether an answer stays, the reader is
            shown none of it.
        tokens: which of them enter a step's score: "all", or "math", those of mathematical
            expressions.
        looks_ahead: the small model's next-token logits are wanted before each step. They cost
            a prefill of what the large model wrote, and are reused if the small model goes on.
        takes_calibration: it has a setting ``calibration``, which ``steer calibrate`` makes.
        calibration: the one that it goes by.
        shipped: the file of its fitted numbers that comes with the package, for the demo pair.
        lead: tokens that the large model writes of each step of the small one, its first.
        drafting: how the small model drafts the tokens that the large one is to write; None where
            the large one writes them one by one. With an exact rule, which is the default, it
            changes what a step costs and not what it says.
        has_posterior: its verdicts say how likely each step is a confident one.
        fitted: what tells the fitted numbers that it goes by from others; empty without any.
    """

    name: ClassVar[str] = "custom"
    takes_calibration: ClassVar[bool] = False
    shipped: ClassVar[str] = ""
    calibration: Calibration | None = None
    has_posterior: bool = False
    fitted: str = ""
    signal: Signal = SIGNALS["max-logit"]
    looks_ahead: bool = False
    grades: bool = False
    in_rounds: bool = False
    restarts: bool = False
    tokens: str = "all"
    lead: int = 0
    drafting: Drafting | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "stays" not in vars(cls) and any(name in vars(cls) for name in _JUDGES):
            cls.stays = _unsure  # type: ignore[method-assign, assignment]
        if "gate_rule" not in vars(cls) and any(name in vars(cls) for name in _CHOOSES):
            cls.gate_rule = _untold  # type: ignore[method-assign, assignment]

    def drafts(self, sampling: Sampling) -> Drafting | None:
        """How an answer that is drawn so is drafted."""
        return self.drafting

    @classmethod
    def shipped_for(cls, settings: Collection[str]) -> str:
        """The shipped file for these settings; "" without one."""
        return cls.shipped

    def check(self, pair: TwoModels) -> None:
        """Raise :class:`SteerError` where this policy cannot serve ``pair``."""

    def question(self, pair: TwoModels) -> Question | None:
        """The question about every draft, if any.

        The large model answers it. The log-probabilities of the choices are then in
        ``step.answers``. With a question the steps are not graded by their own log-probabilities.
        """
        return None

    def wants_grade(self, step: Step) -> bool:
        """Whether this draft is worth its reading, with ``grades``."""
        return True

    def counted(self, texts: Sequence[str], prompt: str) -> list[bool]:
        """Which tokens of a step enter its score.

        They are told by their ``texts``; empty for all of them.
        """
        return math_tokens(texts) if self.tokens == "math" else []

    def before_step(self, start: StepStart) -> Writer:
        """Who writes the step that is about to begin."""
        return start.writer

    def after_step(self, step: Step) -> Writer | Redo | Mend | Verdict:
        """Who writes the next step, or this one again.

        ``"redo"`` takes it back, and the other model writes it. A step that was written again
        cannot be taken back a second time. ``Mend(i)`` takes back what stands from token i on: the
        other model writes that token, this one the rest. A :class:`Verdict` is such a word with
        its reason.
        """
        return step.writer

    def judge(self, step: Step, trace: Trace) -> Word | Verdict:
        """As :meth:`after_step`, with the whole answer in view.

        ``step`` is its last. They may also answer "restart": everything is taken back, once, and
        the large model begins.
        """
        return self.after_step(step)

    def after_round(self, steps: Sequence[Step]) -> Sequence[Writer | Redo | Mend | Verdict]:
        """Judge the steps that a cohort has just closed.

        They have one index; there is one verdict for each. Those of answers that have ended are
        among them, as a step 0 may be taken back.
        """
        return [self.after_step(step) for step in steps]

    def stays(self, step: Step) -> bool:
        """Whether an open step is sure to stay.

        If it is, a reader is shown it while it is written; else when it has been judged. By default
        it is where nothing judges steps. A class that judges them has to say it anew.
        """
        return True

    def gate_rule(self, writer: Writer) -> GateRule | None:
        """Where ``writer`` goes on writing, if numbers alone say it.

        An engine may then go by it without asking (see :class:`GateRule`). None where only the
        policy can say: it is asked after each step. A class that chooses writers has to say it
        anew.
        """
        return None

    def start(self) -> Policy:
        """The policy for one run.

        Itself, or a copy where it gathers something on the way.
        """
        return self

    def __str__(self) -> str:
        return self.name

    @property
    def label(self) -> str:
        """The router as a text, drafts included."""
        return str(self) if self.drafting is None else f"{self}:draft={self.drafting.k}"
