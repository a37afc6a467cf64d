"""Answers of a pair with routes drawn from a network.

With what was known before each step.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.events import RoutedOutput
from ..core.trace import Trace
from ..core.transcript import Writer
from ..models.pair import Pair
from ..policies.base import StepStart
from ..policies.features import read_features
from ..policies.fitted.network import TrainedNetwork
from ..policies.learned import Learned
from ..util import documents
from ..util.partial import Partial
from .kept import packed, unpacked
from .questions import CheckedPrompt, answers
from .training import Training


@dataclass(frozen=True)
class Rollout:
    """One answer, by question, with its route.

    What was known before each step, and which way it went.
    """

    question: int
    output: RoutedOutput
    right: bool
    features: list[list[float]]
    large: list[bool]

    @property
    def share(self) -> float:
        return self.output.cost.large_token_share

    def to_dict(self) -> dict[str, Any]:
        """Plain data; :data:`_ROLLOUT` checks its inverse."""
        return {**vars(self), "output": packed(self.output)}

    @classmethod
    def from_dict(cls, data: Any) -> Rollout:
        return cls(**_ROLLOUT(data))


_ROLLOUT = documents.record(
    {
        "question": documents.whole(),
        "output": unpacked,
        "right": documents.boolean,
        "features": documents.listed(documents.listed(documents.number())),
        "large": documents.listed(documents.boolean),
    }
)


class _Exploring(Learned):
    """Draws each route from the network and remembers it."""

    def __init__(self, router: TrainedNetwork, grades: bool) -> None:
        super().__init__(router)
        self.grades = grades
        self.seen: dict[int, tuple[list[list[float]], list[bool]]] = defaultdict(lambda: ([], []))

    def before_step(self, start: StepStart) -> Writer:
        coin = random.Random(f"{start.seed}:{start.index}").random()
        large = coin < self.large_probability(start)
        features, routes = self.seen[id(start.trace)]
        features.append(read_features(start, self.router.network.features))
        routes.append(large)
        return "large" if large else "small"

    def of(self, trace: Trace) -> tuple[list[list[float]], list[bool]]:
        return self.seen[id(trace)]


def roll_out(
    pair: Pair,
    router: TrainedNetwork,
    tasks: Sequence[CheckedPrompt],
    asked: Sequence[int],
    training: Training,
    seed: int,
    kept: Partial | None,
) -> list[Rollout]:
    """Answer each of the questions ``asked``, with routes drawn."""
    policy = _Exploring(router, training.kind == "roro" and training.judge is None)
    seed += 10**6 * training.seed

    def make() -> list[Rollout]:
        outputs = answers(pair, policy, [tasks[q] for q in asked], training.max_new_tokens, seed)
        return [
            Rollout(question, output, task.right(output.text), *policy.of(output.trace))
            for question, (task, output) in zip(asked, outputs, strict=True)
        ]

    return make() if kept is None else list(kept.batch(make, Rollout.to_dict, Rollout.from_dict))
