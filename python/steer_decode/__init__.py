"""Routed decoding: a small and a large language model write one answer together."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .calibration import Calibration
    from .errors import BrokenModelError, OutOfMemoryError, SteerError
    from .events import Done, HandOver, RoutedOutput, StepClosed, TextDelta
    from .pair import Pair
    from .policies import (
        POLICIES,
        AlwaysLarge,
        AlwaysSmall,
        BothSides,
        EcoTab,
        FirstTokenEntropy,
        Learned,
        Percentile,
        Policy,
        QueryCascade,
        RandomShare,
        Replay,
        RewardGuided,
        SpecReason,
        Steer,
        SteerOnline,
        StepStart,
        parse_policy,
    )
    from .router import Router
    from .session import Session
    from .signals import SIGNALS, Signal, get_signal
    from .streams import Cohort, RoutedStream
    from .trace import Step, Trace

# Where each public name lives. They are imported when first asked for: torch and transformers take
# seconds, for which `steer --help` and a mistyped option should not have to wait.
_HOME = {
    "calibration": ["Calibration"],
    "errors": ["BrokenModelError", "OutOfMemoryError", "SteerError"],
    "events": ["Done", "HandOver", "RoutedOutput", "StepClosed", "TextDelta"],
    "pair": ["Pair"],
    "policies": [
        "POLICIES",
        "AlwaysLarge",
        "AlwaysSmall",
        "BothSides",
        "EcoTab",
        "FirstTokenEntropy",
        "Learned",
        "Percentile",
        "Policy",
        "QueryCascade",
        "RandomShare",
        "Replay",
        "RewardGuided",
        "SpecReason",
        "Steer",
        "SteerOnline",
        "StepStart",
        "parse_policy",
    ],
    "router": ["Router"],
    "streams": ["Cohort", "RoutedStream"],
    "session": ["Session"],
    "signals": ["SIGNALS", "Signal", "get_signal"],
    "trace": ["Step", "Trace"],
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "POLICIES",
    "SIGNALS",
    "AlwaysLarge",
    "AlwaysSmall",
    "BothSides",
    "BrokenModelError",
    "Calibration",
    "Cohort",
    "Done",
    "EcoTab",
    "FirstTokenEntropy",
    "HandOver",
    "Learned",
    "OutOfMemoryError",
    "Pair",
    "Percentile",
    "Policy",
    "QueryCascade",
    "RandomShare",
    "Replay",
    "RewardGuided",
    "RoutedOutput",
    "RoutedStream",
    "Router",
    "Session",
    "Signal",
    "SpecReason",
    "Steer",
    "SteerError",
    "SteerOnline",
    "Step",
    "StepClosed",
    "StepStart",
    "TextDelta",
    "Trace",
    "get_signal",
    "parse_policy",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
