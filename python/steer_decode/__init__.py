"""Routed decoding: two language models write one answer together.

A small model writes, and a large one where the small one is not sure.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core.events import Done, HandOver, RoutedOutput, StepClosed, TextDelta
    from .core.signals import SIGNALS, Signal, get_signal
    from .core.trace import Step, Trace
    from .decode.router import Router
    from .decode.session import Session
    from .decode.stream import Cohort, RoutedStream
    from .errors import BrokenModelError, OutOfMemoryError, SteerError
    from .models.pair import Pair
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
        SteerCohort,
        StepStart,
        parse_policy,
    )
    from .policies.fitted.calibration import Calibration

# Where each public name lives. They are imported when first asked for: torch and transformers take
# seconds, for which `steer --help` and a mistyped option should not have to wait.
_HOME = {
    "policies.fitted.calibration": ["Calibration"],
    "errors": ["BrokenModelError", "OutOfMemoryError", "SteerError"],
    "core.events": ["Done", "HandOver", "RoutedOutput", "StepClosed", "TextDelta"],
    "models.pair": ["Pair"],
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
        "SteerCohort",
        "Steer",
        "StepStart",
        "parse_policy",
    ],
    "decode.router": ["Router"],
    "decode.stream": ["Cohort", "RoutedStream"],
    "decode.session": ["Session"],
    "core.signals": ["SIGNALS", "Signal", "get_signal"],
    "core.trace": ["Step", "Trace"],
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
    "SteerCohort",
    "SteerError",
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
