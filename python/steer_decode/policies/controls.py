"""Controls: one model alone, and chance.

No router is worth much that chance at its cost beats.
"""

from __future__ import annotations

import random
from typing import ClassVar

from ..core.gate_rule import GateRule
from ..core.signals import Signal, get_signal
from ..core.transcript import Writer
from ..util.checks import fraction
from .base import Policy, StepStart


class AlwaysSmall(Policy):
    """The small model alone."""

    name: ClassVar[str] = "small"

    def before_step(self, start: StepStart) -> Writer:
        return "small"

    def gate_rule(self, writer: Writer) -> GateRule | None:
        return GateRule() if writer == "small" else None


class AlwaysLarge(Policy):
    """The large model alone."""

    name: ClassVar[str] = "large"

    def before_step(self, start: StepStart) -> Writer:
        return "large"

    def gate_rule(self, writer: Writer) -> GateRule | None:
        return GateRule() if writer == "large" else None


class RandomShare(Policy):
    """Each step goes to the large model by chance.

    The probability is ``share``, and each step has its own coin. The coin of a step is a function
    of the conversation's seed and of the step's index, so that two shares are nested: what the
    large model writes at 0.3 it also writes at 0.5.
    """

    name: ClassVar[str] = "random"

    def __init__(self, share: float = 0.5, signal: str | Signal = "max-logit") -> None:
        self.share = fraction("share", share)
        self.signal = get_signal(signal)

    def before_step(self, start: StepStart) -> Writer:
        coin = random.Random(f"{start.seed}:{start.index}").random()
        return "large" if coin < self.share else "small"

    def __str__(self) -> str:
        return f"random:share={self.share:g}"
