"""How a learned router is trained."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SteerError
from ..policies.fitted.network import KINDS
from ..policies.rewards import Reward


@dataclass(frozen=True)
class Training:
    """How a router is trained.

    Attributes:
        kind: "policy-guided" or "roro".
        budget: share of large-model tokens that is aimed at.
        iterations: gradient steps.
        questions, group: questions a step, and answers to each.
        rate: of Adam.
        price: of the large model, in RoRo's rewards; where the multiplier begins, in the other.
        judge: RoRo's, of a step and what stands before it; the likelihood under the large model
            where it is None.
        seed: of everything that is drawn.
        max_new_tokens: of an answer.
    """

    kind: str = "policy-guided"
    budget: float = 0.4
    iterations: int = 40
    questions: int = 24
    group: int = 4
    rate: float = 0.02
    price: float = 0.15
    judge: Reward | None = None
    seed: int = 0
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SteerError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 0 < self.budget < 1:
            raise SteerError(f"budget must lie between 0 and 1, got {self.budget}")
        for name in ("iterations", "questions", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise SteerError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.group < 2:
            raise SteerError(f"group must be at least 2, got {self.group}")
