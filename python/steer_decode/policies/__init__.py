"""Who writes next: one file per router, one small protocol, and the names of the command line."""

from __future__ import annotations

import inspect
from typing import Any

from ..errors import SteerError
from .base import REDO, RESTART, Mend, Policy, Question, Redo, Restart, StepStart, Verdict
from .both_sides import BothSides
from .controls import AlwaysLarge, AlwaysSmall, RandomShare
from .ecotab import EcoTab
from .first_token import FirstTokenEntropy
from .learned import Learned
from .query_cascade import QueryCascade
from .replay import Replay
from .reward_guided import RewardGuided
from .spec_reason import SpecReason
from .steer import Steer
from .steer_cohort import Percentile, SteerCohort

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (
        AlwaysSmall,
        AlwaysLarge,
        SteerCohort,
        Steer,
        Percentile,
        FirstTokenEntropy,
        BothSides,
        SpecReason,
        RewardGuided,
        EcoTab,
        QueryCascade,
        Learned,
        RandomShare,
        Replay,
    )
}

_WORDS = (
    *("signal", "calibration", "tokens"),
    *("grade", "reward", "over", "path", "strings", "writers", "cost", "fix"),
)
_SWITCHES = {"true": True, "false": False}

__all__ = [
    "POLICIES",
    "REDO",
    "RESTART",
    "AlwaysLarge",
    "AlwaysSmall",
    "BothSides",
    "EcoTab",
    "FirstTokenEntropy",
    "Learned",
    "Mend",
    "Percentile",
    "Policy",
    "QueryCascade",
    "Question",
    "RandomShare",
    "Redo",
    "Replay",
    "Restart",
    "RewardGuided",
    "SpecReason",
    "Steer",
    "SteerCohort",
    "StepStart",
    "Verdict",
    "parse_policy",
]


def parse_policy(text: str, **defaults: Any) -> Policy:
    """A policy from ``NAME`` or ``NAME:SETTING=VALUE:...``, as in ``first-token:threshold=0.4``.

    Args:
        text: the specification.
        defaults: settings that are used where the text has none and the policy knows them.

    Raises:
        SteerError: an unknown name or setting, or a value that is no number.
    """
    name, *parts = text.split(":")
    if name not in POLICIES:
        raise SteerError(f"unknown router {name!r}: choose from {', '.join(POLICIES)}")
    known = list(inspect.signature(POLICIES[name]).parameters)
    settings: dict[str, Any] = {}
    for part in _rejoined(parts):
        key, equals, value = part.partition("=")
        if not equals or key not in known:
            choice = f"it takes {', '.join(known)}" if known else "it takes none"
            raise SteerError(f"router {name!r} has no setting {part!r}: {choice} (as KEY=VALUE)")
        settings[key] = value if key in _WORDS else _number(name, key, value)
    if "threshold" in settings:
        defaults.pop("calibration", None)
    return POLICIES[name](**{k: v for k, v in defaults.items() if k in known} | settings)


def _rejoined(parts: list[str]) -> list[str]:
    """The name of a function has a colon of its own: ``reward=module:function``."""
    joined: list[str] = []
    for part in parts:
        if joined and "=" not in part and joined[-1].startswith("reward="):
            joined[-1] += f":{part}"
        else:
            joined.append(part)
    return joined


def _number(name: str, key: str, value: str) -> float | bool:
    if value in _SWITCHES:
        return _SWITCHES[value]
    try:
        return float(value)
    except ValueError:
        raise SteerError(f"{key} of router {name!r} must be a number, got {value!r}") from None
