"""GlimpRouter (arXiv 2601.05110): a step's first token decides.

Its entropy decides who writes the step. Before each step the small model reads the transcript to
its end and gives the distribution of the next token. Above the threshold the large model writes the
step; otherwise the small model goes on from those same logits. Faithful: signal, moment and rule.
Ours: any signal may stand in for the entropy (margin, say), and steps are "\\n\\n"-delimited as
everywhere here.
"""

from __future__ import annotations

from typing import ClassVar

from ..core.gate_rule import NOWHERE, GateRule
from ..core.signals import Signal, get_signal
from ..core.transcript import Writer
from ..util import checks
from .base import Policy, StepStart


class FirstTokenEntropy(Policy):
    """Large model where a step's first token is unsure.

    The small model is asked about it before the step.

    Args:
        threshold: in the signal's own unit (nats for entropy). A step goes to the large model where
            the signal is on the unsure side of it: entropy above, any other signal below.
        signal: name of a signal, or a :class:`Signal`.
    """

    name: ClassVar[str] = "first-token"
    looks_ahead = True

    def __init__(self, threshold: float = 0.5, signal: str | Signal = "entropy") -> None:
        self.threshold = checks.threshold("threshold", threshold)
        self.signal = get_signal(signal)

    def before_step(self, start: StepStart) -> Writer:
        value = start.read(self.signal)
        assert value is not None
        sure = self.signal.confidence(value) >= self.signal.confidence(self.threshold)
        return "small" if sure else "large"

    def gate_rule(self, writer: Writer) -> GateRule | None:
        if not self.signal.named:
            return None
        if writer == "large":  # the small model is asked before each step
            return GateRule(self.signal.name, after=(NOWHERE,))
        return GateRule(self.signal.name, before=self.signal.sure(self.threshold))

    def __str__(self) -> str:
        return f"first-token:threshold={self.threshold:g}:signal={self.signal.name}"
