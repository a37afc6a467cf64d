"""Routed decoding: two language models write one answer together.

A small model writes, and a large one where the small one is not sure.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

# For type checkers, to whom "A as A" says that A is handed on. A test compares it with _HOME.
# isort: off
if TYPE_CHECKING:
    from .core.events import (
        Done as Done,
        Failed as Failed,
        HandOver as HandOver,
        RoutedOutput as RoutedOutput,
        StepClosed as StepClosed,
        TextDelta as TextDelta,
    )
    from .core.signals import SIGNALS as SIGNALS, Signal as Signal, get_signal as get_signal
    from .core.trace import Step as Step, Trace as Trace
    from .decode.pool import Pool as Pool, PoolFull as PoolFull
    from .decode.router import Router as Router
    from .decode.session import Session as Session
    from .decode.stream import Cohort as Cohort, RoutedStream as RoutedStream
    from .errors import (
        BrokenModelError as BrokenModelError,
        OutOfMemoryError as OutOfMemoryError,
        SteerError as SteerError,
    )
    from .models.pair import Pair as Pair
    from .policies import (
        POLICIES as POLICIES,
        AlwaysLarge as AlwaysLarge,
        AlwaysSmall as AlwaysSmall,
        Bild as Bild,
        BothSides as BothSides,
        EcoTab as EcoTab,
        FirstTokenEntropy as FirstTokenEntropy,
        Foreal as Foreal,
        Learned as Learned,
        Percentile as Percentile,
        Policy as Policy,
        PromptLookup as PromptLookup,
        QueryCascade as QueryCascade,
        RandomShare as RandomShare,
        Replay as Replay,
        RewardGuided as RewardGuided,
        SpecReason as SpecReason,
        Speculative as Speculative,
        Steer as Steer,
        SteerCohort as SteerCohort,
        StepStart as StepStart,
        parse_policy as parse_policy,
    )
    from .policies.fitted.calibration import Calibration as Calibration

# isort: on
# Where each public name lives. They are imported when first asked for: torch and transformers take
# seconds, for which `steer --help` and a mistyped option should not have to wait.
_HOME = {
    "policies.fitted.calibration": ["Calibration"],
    "errors": ["BrokenModelError", "OutOfMemoryError", "SteerError"],
    "core.events": ["Done", "Failed", "HandOver", "RoutedOutput", "StepClosed", "TextDelta"],
    "models.pair": ["Pair"],
    "policies": [
        "POLICIES",
        "AlwaysLarge",
        "AlwaysSmall",
        "Bild",
        "BothSides",
        "EcoTab",
        "FirstTokenEntropy",
        "Foreal",
        "Learned",
        "Percentile",
        "Policy",
        "PromptLookup",
        "QueryCascade",
        "RandomShare",
        "Replay",
        "RewardGuided",
        "SpecReason",
        "Speculative",
        "SteerCohort",
        "Steer",
        "StepStart",
        "parse_policy",
    ],
    "decode.pool": ["Pool", "PoolFull"],
    "decode.router": ["Router"],
    "decode.stream": ["Cohort", "RoutedStream"],
    "decode.session": ["Session"],
    "core.signals": ["SIGNALS", "Signal", "get_signal"],
    "core.trace": ["Step", "Trace"],
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE)


def __getattr__(name: str) -> object:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
