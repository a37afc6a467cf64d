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
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..errors import SteerError
from ..models.pair import Pair
from ..policies.features import FEATURES
from ..policies.fitted.network import RouterNetwork, TrainedNetwork
from ..policies.learned import Learned
from ..policies.rewards import reward_of
from ..util.partial import Partial
from .questions import CheckedPrompt, answers
from .rollout import Rollout, roll_out
from .training import Training

_QUANTILES = [i / 10 for i in range(1, 10)]
# Of the multiplier. Faster, it drives the network to one side before it has learnt anything.
_DUAL_RATE = 0.2


def train(
    pair: Pair,
    tasks: Sequence[CheckedPrompt],
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
        rollouts = roll_out(pair, router, tasks, asked, training, 1000 * (iteration + 1), kept)
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
    pair: Pair, tasks: Sequence[CheckedPrompt], training: Training, kept: Partial | None
) -> TrainedNetwork:
    """A network that knows the spread of its features, and thresholds at their quantiles."""
    coin = TrainedNetwork(training.kind, pair.fingerprint, RouterNetwork(list(FEATURES)))
    some = range(min(len(tasks), training.questions * training.group))
    rollouts = roll_out(pair, coin, tasks, some, training, 0, kept)
    x = torch.tensor([row for r in rollouts for row in r.features])
    thresholds: list[float] = []
    if training.kind == "policy-guided":
        entropy = x[:, coin.network.features.index("first-token-entropy")]
        inner = torch.quantile(entropy, torch.tensor(_QUANTILES)).tolist()
        thresholds = [-1.0, *inner, float(entropy.max()) + 1e3]  # always and never among them
    network = RouterNetwork(list(FEATURES), thresholds)
    network.standardise(x)
    return TrainedNetwork(training.kind, pair.fingerprint, network)


def constrained_advantages(rollouts: Sequence[Rollout], multiplier: float) -> list[list[float]]:
    """Each step's advantage: its answer's reward within the question.

    The reward less that of the question, in units of their spread.
    """
    rewards = torch.tensor([r.right - multiplier * r.share for r in rollouts])
    centred = _relative(rewards, [r.question for r in rollouts])
    return [[a] * len(r.large) for a, r in zip(centred.tolist(), rollouts, strict=True)]


def process_advantages(rollouts: Sequence[Rollout], training: Training) -> list[list[float]]:
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
    rollouts: Sequence[Rollout],
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
    tasks: Sequence[CheckedPrompt],
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
