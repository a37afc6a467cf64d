"""What a learned router knows before a step, by name.

All of it is free of labels and of text. The numbers come from the small model's next-token logits,
which are computed anyway if it goes on, and from the entropies of the steps so far. None changes
when all logits shift.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from steer_kernels import LogitStats

from ..core.trace import Step
from ..errors import SteerError
from .base import StepStart


def _stats(start: StepStart) -> LogitStats:
    if start.stats is None:
        raise SteerError(
            "router 'learned' reads statistics of the small model's logits, which its engine does "
            "not give: use another router, or models of transformers"
        )
    return start.stats


def _entropy(start: StepStart) -> float:
    return float(_stats(start).entropy[0])


def _margin(start: StepStart) -> float:
    return float(_stats(start).margin[0])


def _log_prob(start: StepStart) -> float:
    return math.log(max(float(_stats(start).max_prob[0]), 1e-6))


def _so_far(start: StepStart) -> Sequence[Step]:
    return start.trace.kept if start.trace is not None else ()


def _last_mean(start: StepStart) -> float:
    steps = _so_far(start)
    return steps[-1].score if steps else 0.0


def _last_worst(start: StepStart) -> float:
    steps = _so_far(start)
    return max(steps[-1].values) if steps else 0.0


def _last_large(start: StepStart) -> float:
    steps = _so_far(start)
    return float(bool(steps) and steps[-1].writer == "large")


def _worst_small(start: StepStart) -> float:
    mine = [max(s.values) for s in _so_far(start) if s.writer == "small"]
    return max(mine, default=0.0)


def _large_share(start: StepStart) -> float:
    steps = _so_far(start)
    return sum(s.writer == "large" for s in steps) / len(steps) if steps else 0.0


FEATURES: dict[str, Callable[[StepStart], float]] = {
    "first-token-entropy": _entropy,
    "first-token-margin": _margin,
    "first-token-log-prob": _log_prob,
    "last-step-entropy": _last_mean,
    "last-step-worst-entropy": _last_worst,
    "last-step-large": _last_large,
    "worst-small-entropy": _worst_small,
    "large-step-share": _large_share,
    "log-index": lambda start: math.log1p(start.index),
}


def read_features(start: StepStart, names: Sequence[str]) -> list[float]:
    """Read the named features of the step about to begin.

    What is not finite counts as 0.
    """
    values = (FEATURES[name](start) for name in names)
    return [value if math.isfinite(value) else 0.0 for value in values]
