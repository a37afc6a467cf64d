"""The loop against recomputation from scratch."""

from __future__ import annotations

import functools
import random
import statistics

import pytest
import torch
from steer_decode import (
    SIGNALS,
    AlwaysLarge,
    AlwaysSmall,
    Calibration,
    FirstTokenEntropy,
    Pair,
    Policy,
    RandomShare,
    Steer,
    Step,
)
from steer_decode.core.transcript import Writer
from steer_decode.policies import Redo
from steer_decode.policies.fitted.mixture import TwoGaussians
from support import reference_loop as ref
from support.runs import LIMIT, run, usual_max_logit
from support.tiny import FAMILIES, make_pair, prompt_ids


def keep(index: int, step: ref.RefStep) -> str:
    return step.writer


def stay(index: int, writer: str, logits: torch.Tensor) -> str:
    return writer


def steer_reference(limit: float) -> ref.After:
    def after(index: int, step: ref.RefStep) -> str:
        if statistics.fmean(step.max_logits) >= limit:
            return "small"
        return "redo" if index == 0 and step.writer == "small" else "large"

    return after


def posterior_reference(mixtures: dict[str, TwoGaussians], gamma: float) -> ref.After:
    def after(index: int, step: ref.RefStep) -> str:
        m, x = mixtures[step.writer], statistics.fmean(step.max_logits)
        c = m.weight_c * statistics.NormalDist(m.mean_c, m.var_c**0.5).pdf(x)
        u = (1 - m.weight_c) * statistics.NormalDist(m.mean_u, m.var_u**0.5).pdf(x)
        if c / (c + u) >= gamma:
            return "small"
        return "redo" if index == 0 and step.writer == "small" else "large"

    return after


class WeakestToken(Policy):
    """A user's own policy: takes back any step of the small model that holds a doubtful token."""

    signal = SIGNALS["max-logit"]

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def after_step(self, step: Step) -> Writer | Redo:
        doubtful = min(step.values) < self.threshold
        return "redo" if step.writer == "small" and doubtful else "small"


@functools.cache
def routers(
    family: str, seed: int
) -> tuple[Pair, ref.Known, dict[str, tuple[Policy, ref.Before, ref.After]]]:
    """A pair, passes, and for it every built-in router, beside its rule written out anew."""
    pair = make_pair(family, seed)
    level = usual_max_logit(pair, seed)
    looks = run(pair, FirstTokenEntropy(1.0), seed).trace.kept
    nats = statistics.median(step.before for step in looks) + 1e-3  # type: ignore[type-var]
    mixtures = {
        "small": TwoGaussians(0.5, level - 1, 1.0, level + 1, 1.0),
        "large": TwoGaussians(0.4, level - 2, 2.0, level + 1, 1.0),
    }
    fits = {w: {-1: m} for w, m in mixtures.items()}
    calibration = Calibration(pair.fingerprint, "max-logit", fits, {"small": {}, "large": {}})  # type: ignore[arg-type]

    def first_token(index: int, writer: str, logits: torch.Tensor) -> str:
        return "large" if ref.entropy(logits) > nats else "small"

    def weakest(index: int, step: ref.RefStep) -> str:
        doubtful = min(step.max_logits) < level - 2
        return "redo" if step.writer == "small" and doubtful else "small"

    def coin(index: int, writer: str, logits: torch.Tensor) -> str:
        return "large" if random.Random(f"{seed}:{index}").random() < 0.5 else "small"

    return (
        pair,
        {},
        {
            "small": (AlwaysSmall(), lambda i, w, z: "small", keep),
            "large": (AlwaysLarge(), lambda i, w, z: "large", keep),
            "threshold": (Steer(threshold=level), stay, steer_reference(level)),
            "posterior": (
                Steer(calibration, gamma=0.6),
                stay,
                posterior_reference(mixtures, 0.6),
            ),
            "first-token": (FirstTokenEntropy(threshold=nats), first_token, keep),
            "random": (RandomShare(0.5), coin, keep),
            "custom": (WeakestToken(level - 2), stay, weakest),
        },
    )


@pytest.mark.few(2)
@pytest.mark.spread(1, ci=3)
@pytest.mark.parametrize(
    "name", ["small", "large", "threshold", "posterior", "first-token", "random", "custom"]
)
@pytest.mark.parametrize("family", FAMILIES)  # one after another, in one worker
def test_greedy_equals_recomputation_from_scratch(family: str, name: str) -> None:
    handed_over = discarded = 0
    for seed in range(4):
        pair, known, rules = routers(family, seed)
        policy, before, after = rules[name]
        ids, steps = ref.generate(pair, prompt_ids(seed), LIMIT, before, after, known)
        out = run(pair, policy, seed)
        assert out.token_ids == ids
        ours = [(s.writer, s.token_ids, s.discarded) for s in out.trace.steps]
        assert ours == [(s.writer, s.ids, s.discarded) for s in steps]
        handed_over += out.cost.hand_overs
        discarded += out.cost.discarded_tokens
    # The comparison is worth something only where there was something to get wrong.
    assert (handed_over > 0) == (name not in ("small", "large"))
    assert (discarded > 0) == (name in ("threshold", "posterior", "custom"))
