"""Policy gradient for the learned routers.

On answers that the pair writes as it is trained. Both kinds draw each route from the network, on
the coin of the answer's seed and the step's index, and raise the log-probability of routes in
proportion to their advantage:

``policy-guided``: reward = right - lambda x share of large-model tokens; the advantage of an answer
is its reward less the mean of the answers to the same question. Lambda is the multiplier of the
constraint "mean share <= budget" and follows it by dual ascent.

``roro``: the outcome, right - price x share, is taken relative to the answers to one question; so
are the process rewards of all their steps: the judge's for a step of the small model, 1 - price for
one of the large model. The advantage of a step is the sum of the two.

Last, the cut on the probability of the large model is calibrated: by bisection, on answers without
chance, until the share of large-model tokens is the budget.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..core.events import RoutedOutput
from ..core.trace import Trace
from ..core.transcript import Writer
from ..errors import SteerError
from ..models.pair import Pair
from ..policies.base import StepStart
from ..policies.features import FEATURES, read_features
from ..policies.fitted.network import KINDS, RouterNetwork, TrainedNetwork
from ..policies.learned import Learned
from ..policies.rewards import Reward, reward_of
from ..util.partial import Partial
from .kept import packed, unpacked
from .questions import Task, answers

_QUANTILES = [i / 10 for i in range(1, 10)]
# Of the multiplier. Faster, it drives the network to one side before it has learnt anything.
_DUAL_RATE = 0.2


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


@dataclass(frozen=True)
class _Rollout:
    """One answer, by question, with what was known before each step and which way it went."""

    question: int
    output: RoutedOutput
    right: bool
    features: list[list[float]]
    large: list[bool]

    @property
    def share(self) -> float:
        return self.output.cost.large_token_share

    def to_dict(self) -> dict[str, Any]:
        """Plain data; :meth:`from_dict` is its inverse."""
        return {**vars(self), "output": packed(self.output)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> _Rollout:
        return cls(**{**data, "output": unpacked(data["output"])})


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


def train(
    pair: Pair,
    tasks: Sequence[Task],
    training: Training,
    progress: Callable[[float, float], None] = lambda right, share: None,
    kept: Partial | None = None,
) -> TrainedNetwork:
    """Trains a router of ``training.kind``.

    Args:
        tasks: questions that no figure will be reported on.
        progress: called after each gradient step with its share of right answers and of
            large-model tokens.
        kept: keeps answers over an interruption; the steps are taken again on what was kept.
    """
    if not tasks:
        raise SteerError("no questions to train on: give at least one")
    torch.manual_seed(training.seed)
    draw = random.Random(training.seed)
    router = _begin(pair, tasks, training, kept)
    optimiser = torch.optim.Adam(router.network.parameters(), lr=training.rate)
    multiplier = training.price
    for iteration in range(training.iterations):
        chosen = draw.sample(range(len(tasks)), min(training.questions, len(tasks)))
        asked = [question for question in chosen for _ in range(training.group)]
        rollouts = _roll_out(pair, router, tasks, asked, training, 1000 * (iteration + 1), kept)
        share = sum(r.share for r in rollouts) / len(rollouts)
        if training.kind == "roro":
            advantages = process_advantages(rollouts, training)
        else:
            advantages = constrained_advantages(rollouts, multiplier)
            multiplier = max(0.0, multiplier + _DUAL_RATE * (share - training.budget))
        _ascend(router.network, optimiser, rollouts, advantages)
        progress(sum(r.right for r in rollouts) / len(rollouts), share)
    achieved = _calibrate(pair, router, tasks, training, kept)
    settings = {k: v for k, v in vars(training).items() if k != "judge"}
    settings |= {"judge": getattr(training.judge, "__name__", "likelihood"), "share": achieved}
    return replace(router, settings=settings | {"tasks": len(tasks)})


def _begin(
    pair: Pair, tasks: Sequence[Task], training: Training, kept: Partial | None
) -> TrainedNetwork:
    """A network that knows the spread of its features, and thresholds at their quantiles."""
    coin = TrainedNetwork(training.kind, pair.fingerprint, RouterNetwork(list(FEATURES)))
    some = range(min(len(tasks), training.questions * training.group))
    rollouts = _roll_out(pair, coin, tasks, some, training, 0, kept)
    x = torch.tensor([row for r in rollouts for row in r.features])
    thresholds: list[float] = []
    if training.kind == "policy-guided":
        entropy = x[:, coin.network.features.index("first-token-entropy")]
        inner = torch.quantile(entropy, torch.tensor(_QUANTILES)).tolist()
        thresholds = [-1.0, *inner, float(entropy.max()) + 1e3]  # always and never among them
    network = RouterNetwork(list(FEATURES), thresholds)
    network.standardise(x)
    return TrainedNetwork(training.kind, pair.fingerprint, network)


def _roll_out(
    pair: Pair,
    router: TrainedNetwork,
    tasks: Sequence[Task],
    asked: Sequence[int],
    training: Training,
    seed: int,
    kept: Partial | None,
) -> list[_Rollout]:
    """An answer to each of the questions ``asked``, with routes drawn."""
    policy = _Exploring(router, training.kind == "roro" and training.judge is None)
    seed += 10**6 * training.seed

    def make() -> list[_Rollout]:
        outputs = answers(pair, policy, [tasks[q] for q in asked], training.max_new_tokens, seed)
        return [
            _Rollout(question, output, task.right(output.text), *policy.of(output.trace))
            for question, (task, output) in zip(asked, outputs, strict=True)
        ]

    return make() if kept is None else list(kept.batch(make, _Rollout.to_dict, _Rollout.from_dict))


def constrained_advantages(rollouts: Sequence[_Rollout], multiplier: float) -> list[list[float]]:
    """Each step's advantage: its answer's reward within the question.

    The reward less that of the question, in units of their spread.
    """
    rewards = torch.tensor([r.right - multiplier * r.share for r in rollouts])
    centred = _relative(rewards, [r.question for r in rollouts])
    return [[a] * len(r.large) for a, r in zip(centred.tolist(), rollouts, strict=True)]


def process_advantages(rollouts: Sequence[_Rollout], training: Training) -> list[list[float]]:
    """Each step's advantage: outcome and process reward.

    Each is normalised within its question.
    """
    outcomes = torch.tensor([r.right - training.price * r.share for r in rollouts])
    whole = _relative(outcomes, [r.question for r in rollouts]).tolist()
    rewards, questions = [], []
    for rollout in rollouts:
        kept = rollout.output.trace.kept
        for i, step in enumerate(kept):
            so_far = replace(rollout.output.trace, steps=kept[: i + 1])
            reward = 1 - training.price
            if step.writer == "small":
                # A step that was cut off was not graded; its answer is wrong anyway.
                unread = training.judge is None and not step.graded
                reward = 0.0 if unread else reward_of(training.judge, step, so_far)
            rewards.append(reward)
            questions.append(rollout.question)
    steps = iter(_relative(torch.tensor(rewards), questions).tolist())
    return [[a + next(steps) for _ in r.large] for a, r in zip(whole, rollouts, strict=True)]


def _relative(values: torch.Tensor, groups: Sequence[int]) -> torch.Tensor:
    """``values`` less the mean of their group, in units of the spread over all groups.

    The spread of each group alone, as in GRPO, would blow up the price of the large model where all
    answers to a question are right.
    """
    index = torch.tensor(groups)
    means = torch.stack([values[index == group].mean() for group in groups])
    centred = values - means
    return centred / centred.square().mean().sqrt().clamp_min(1e-3)


def _ascend(
    network: RouterNetwork,
    optimiser: torch.optim.Optimizer,
    rollouts: Sequence[_Rollout],
    advantages: Sequence[Sequence[float]],
) -> None:
    """One step up the policy gradient, with a little entropy so that no route dies out early."""
    x = torch.tensor([row for r in rollouts for row in r.features])
    routes = torch.tensor([int(large) for r in rollouts for large in r.large])
    weights = torch.tensor([a for row in advantages for a in row])
    log_probs = network(x)
    gained = (weights * log_probs.gather(1, routes[:, None])[:, 0]).mean()
    doubt = -(log_probs.exp() * log_probs).sum(1).mean()
    optimiser.zero_grad()
    (-gained - 0.01 * doubt).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()


def _calibrate(
    pair: Pair,
    router: TrainedNetwork,
    tasks: Sequence[Task],
    training: Training,
    kept: Partial | None,
) -> float:
    """Sets the cut; returns the share of large-model tokens that it gives on ``tasks``."""
    low, high = -14.0, 14.0  # log-odds: a network that is sure leaves little between 0 and 1
    best = (float("inf"), 0.5, 0.0)
    some = random.Random(training.seed).sample(list(tasks), min(len(tasks), 96))
    for _ in range(10):
        cut = (low + high) / 2
        router.network.cut.fill_(1 / (1 + math.exp(-cut)))
        found = answers(pair, Learned(router), some, training.max_new_tokens, kept=kept)
        shares = [output.cost.large_token_share for _, output in found]
        share = sum(shares) / len(shares)
        best = min(best, (abs(share - training.budget), cut, share))
        low, high = (cut, high) if share > training.budget else (low, cut)
    router.network.cut.fill_(1 / (1 + math.exp(-best[1])))
    return best[2]
