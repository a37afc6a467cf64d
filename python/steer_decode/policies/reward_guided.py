"""RSD (arXiv 2501.19324): a reward decides on every draft.

Its name is reward-guided speculative decoding.

Faithful: the small model drafts each step, a reward of the draft is compared with a threshold of
0.7, and below it the large model writes the step anew, unjudged; the next draft is the small
model's. The tokens of drafts that are taken back are counted, as those of both models.

Ours: the reward is any function of the step and of what stands before it (the paper's is a trained
process reward model, whose own FLOPs are then to be added by whoever supplies one). Without one it
is the geometric mean of the probabilities that the large model gives the draft's tokens, which is a
number between 0 and 1 as the paper's, but no judgement of correctness. Only the paper's step-wise
threshold rule is here, not its other weightings of the two models.
"""

from __future__ import annotations

from typing import ClassVar

from ..core.trace import Step, Trace
from ..core.transcript import Writer
from ..errors import SteerError
from ..util import checks
from .base import REDO, Policy, Redo
from .rewards import LIKELIHOOD, Reward, load_reward, reward_of


class RewardGuided(Policy):
    """Large model where a draft's reward is below ``threshold``.

    The draft of the small model is taken back.

    Args:
        threshold: least reward of a draft that stays.
        reward: a function (text of the step, all text before it, prompt included) -> number;
            ``"module:function"``; or "likelihood".

    Raises:
        SteerError: a reward that cannot be found, or a threshold that is no number.
    """

    name: ClassVar[str] = "rsd"

    def __init__(self, threshold: float = 0.7, reward: str | Reward = LIKELIHOOD) -> None:
        self.threshold = checks.threshold("threshold", threshold)
        if not isinstance(reward, str) and not callable(reward):
            raise SteerError(
                f"reward must be a function, {LIKELIHOOD!r} or MODULE:FUNCTION, got {reward!r}"
            )
        self.grades = isinstance(reward, str) and reward == LIKELIHOOD
        self._called = reward if isinstance(reward, str) else getattr(reward, "__name__", "custom")
        self._reward: Reward | None = None
        if not self.grades:
            self._reward = load_reward(reward) if isinstance(reward, str) else reward

    def stays(self, step: Step) -> bool:
        return step.writer == "large"

    def judge(self, step: Step, trace: Trace) -> Writer | Redo:
        if step.writer == "large" or reward_of(self._reward, step, trace) >= self.threshold:
            return "small"
        return REDO

    def __str__(self) -> str:
        return f"{self.name}:threshold={self.threshold:g}:reward={self._called}"
