"""Rewards and judges: functions of a step and its past.

They are known by name, or taken as they are.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

from ..core.trace import Step, Trace
from ..errors import SteerError

Reward = Callable[[str, str], float]
LIKELIHOOD = "likelihood"


def load_reward(spec: str) -> Reward:
    """The function that ``MODULE:FUNCTION`` names; the module must be importable.

    Raises:
        SteerError: there is no such module or function.
    """
    module, colon, name = spec.partition(":")
    if not (module and colon and name):
        raise SteerError(f"reward must be {LIKELIHOOD!r} or MODULE:FUNCTION, got {spec!r}")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SteerError(
            f"cannot find the reward {spec!r}: {error} (is its folder on PYTHONPATH?)"
        ) from error
    if not callable(found):
        raise SteerError(f"reward {spec!r} is no function, but {type(found).__name__}")
    return found


def likelihood(step: Step) -> float:
    """Geometric mean of a draft's token probabilities, 0 to 1.

    They are those that the large model gives.
    """
    return math.exp(sum(step.graded) / len(step.graded)) if step.graded else 0.0


def reward_of(reward: Reward | None, step: Step, trace: Trace) -> float:
    """The reward of the last step of ``trace``.

    ``reward`` gives it, and :func:`likelihood` where that is None.

    Raises:
        SteerError: it is no number.
    """
    if reward is None:
        return likelihood(step)
    before = trace.prompt + "".join(s.text for s in trace.kept if s is not step)
    given = reward(step.text, before)
    try:
        value = float(given)
    except (TypeError, ValueError):
        value = math.nan
    if math.isnan(value):
        name = getattr(reward, "__name__", "reward")
        raise SteerError(f"reward {name!r} must return a number, got {given!r}")
    return value
