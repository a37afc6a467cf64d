"""Who writes next: one file per router, one small protocol, and the names of the command line."""

from __future__ import annotations

import inspect
from typing import Any

from ..errors import SteerError
from .base import REDO, Policy, Redo, StepStart
from .cohort import Percentile, Steer
from .controls import AlwaysLarge, AlwaysSmall, RandomShare
from .first_token import FirstTokenEntropy
from .steer import SteerOnline

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (
        AlwaysSmall,
        AlwaysLarge,
        Steer,
        SteerOnline,
        Percentile,
        FirstTokenEntropy,
        RandomShare,
    )
}

_WORDS = ("signal", "calibration", "tokens")
_SWITCHES = {"true": True, "false": False}

__all__ = [
    "POLICIES",
    "REDO",
    "AlwaysLarge",
    "AlwaysSmall",
    "FirstTokenEntropy",
    "Percentile",
    "Policy",
    "RandomShare",
    "Redo",
    "Steer",
    "SteerOnline",
    "StepStart",
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
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals or key not in known:
            choice = f"it takes {', '.join(known)}" if known else "it takes none"
            raise SteerError(f"router {name!r} has no setting {part!r}: {choice} (as KEY=VALUE)")
        settings[key] = value if key in _WORDS else _number(name, key, value)
    if "threshold" in settings:
        defaults.pop("calibration", None)
    return POLICIES[name](**{k: v for k, v in defaults.items() if k in known} | settings)


def _number(name: str, key: str, value: str) -> float | bool:
    if value in _SWITCHES:
        return _SWITCHES[value]
    try:
        return float(value)
    except ValueError:
        raise SteerError(f"{key} of router {name!r} must be a number, got {value!r}") from None
