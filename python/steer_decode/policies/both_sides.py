"""A router of this project: it looks on both sides of a step, and asks the large model if in doubt.

STEER judges a step when it is written, keeps it, and acts on the next one; GlimpRouter looks at the
first token only and cannot mend what it lets pass. Here the small model's margins say how sure it
is, at a step's first token before it is written and at its weakest token after:

    lost    first token below it: the large model writes the step, no draft is made
    sure    no token below it: the draft stays, and the large model does not read it
    between the large model reads the draft, in one pass over what it has not read; it stays if
            its mean log-probability is at least ``keep``, and is taken back otherwise

With ``sure=1`` and ``lost=0`` every draft is read, as in SpecReason with log-probabilities; where
every draft stays, ``lost`` alone decides, as in GlimpRouter with margins. Nothing is trained. The
margin is a difference of probabilities, so its scale is that of any model and task.

The defaults were chosen on 60 calibration problems of each of the demo's domains, greedy and at
temperature 0.7, from a dozen settings.

``hold`` is for pairs that would hand over at every step: after a step of the large model the small
one's first token has to be surer by so much than ``lost``.
"""

from __future__ import annotations

from typing import ClassVar

from ..errors import SteerError
from ..signals import Signal, get_signal
from ..trace import Step
from ..transcript import Writer
from .base import REDO, Policy, Redo, StepStart


class BothSides(Policy):
    """Sure steps stay unread, lost ones go to the large model, and it reads what lies between.

    Args:
        sure: least signal of the weakest token of a draft that stays unread, from 0 (none is read)
            to 1 (all are).
        keep: least mean log-probability of a draft that is read and stays, in nats a token.
        lost: the large model writes a step whose first token has a lower signal, from 0 (it writes
            none unread) to ``sure``.
        hold: is added to ``lost`` after a step of the large model.
        signal: "margin" or "max-prob", whose scale is that of probabilities.

    Raises:
        SteerError: another signal, or a value out of its range.
    """

    name: ClassVar[str] = "both-sides"
    grades = True

    def __init__(
        self,
        sure: float = 0.95,
        keep: float = -0.1,
        lost: float = 0.2,
        hold: float = 0.0,
        signal: str | Signal = "margin",
    ) -> None:
        self.signal = get_signal(signal)
        if self.signal.name not in ("margin", "max-prob"):
            raise SteerError(f"signal must be margin or max-prob, got {self.signal.name}")
        for name, value in (("sure", sure), ("lost", lost), ("hold", hold)):
            if not 0 <= value <= 1:
                raise SteerError(f"{name} must lie in [0, 1], got {value}")
        if lost > sure:
            raise SteerError(f"lost must not lie above sure, got {lost} and {sure}")
        if keep != keep:
            raise SteerError(f"keep must be a number, got {keep}")
        self.sure, self.keep, self.lost, self.hold = sure, keep, lost, hold
        self.looks_ahead = lost > 0

    def before_step(self, start: StepStart) -> Writer:
        if start.stats is None:
            return "small"
        bar = self.lost + (self.hold if start.writer == "large" else 0.0)
        return "small" if float(self.signal.read(start.stats)[0]) >= bar else "large"

    def wants_grade(self, step: Step) -> bool:
        return min(step.values) < self.sure

    def after_step(self, step: Step) -> Writer | Redo:
        if step.writer == "large":
            # Where the next step's first token decides, this is only what ``hold`` goes by.
            return "large" if self.looks_ahead else "small"
        if step.graded and sum(step.graded) / len(step.graded) < self.keep:
            return REDO
        return "small"

    def __str__(self) -> str:
        more = f":lost={self.lost:g}" + (f":hold={self.hold:g}" if self.hold else "")
        signal = "" if self.signal.name == "margin" else f":signal={self.signal.name}"
        return f"{self.name}:sure={self.sure:g}:keep={self.keep:g}{more}{signal}"
