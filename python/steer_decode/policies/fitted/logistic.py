"""Logistic maps of a router, in a JSON file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...core.signals import SIGNALS
from ...util import documents
from .file import FittedFile, Phrases


@dataclass(frozen=True)
class Logistic:
    """A map from a number to a probability.

    Of ``x`` it is 1 / (1 + exp(-(slope x + intercept))).
    """

    slope: float
    intercept: float

    def __call__(self, x: float) -> float:
        z = self.slope * x + self.intercept
        return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def noisy_or(risks: Sequence[float]) -> float:
    """Probability that one of several independent causes acts.

    1 - product of (1 - risk).
    """
    return 1 - math.prod(1 - risk for risk in risks)


@dataclass(frozen=True)
class LogisticMaps(FittedFile):
    """Maps fitted for one pair and one kind of router.

    Attributes:
        kind: name of the router.
        pair: fingerprint of the pair.
        maps: logistic maps by name.
        settings: whatever else the router goes by; and for the reader, how it was fitted.
    """

    kind: str
    pair: str
    maps: Mapping[str, Logistic]
    settings: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def phrases(cls, kind: str) -> Phrases:
        wrong = f"holds no parameters of router {kind!r}"
        way = f"make some with `steer train-router {kind}`"
        return Phrases("router parameters", "were fitted", wrong, way)

    @classmethod
    def read(cls, value: Any, kind: str) -> LogisticMaps:
        return cls(**_record(kind)(value))

    def members(self) -> Mapping[str, Any]:
        return asdict(self)


_NUMBER = documents.number()
_MAP = documents.record({"slope": _NUMBER, "intercept": _NUMBER})
# What each kind of router looks up in its file.
_MAPS = {"ecotab": ("table", "text"), "corea": ("answer",)}
_SETTINGS = {
    "corea": {
        "signal": documents.one_of(SIGNALS),
        "over": documents.one_of(("mean", "min", "last", "first")),
    }
}


def _record(kind: str) -> documents.Check:
    needed = dict.fromkeys(_MAPS.get(kind, ()), _map)
    return documents.record(
        {
            "kind": documents.one_of((kind,)),
            "pair": documents.text,
            "maps": documents.record(needed) if needed else documents.mapped(_map),
            "settings": documents.record(_SETTINGS.get(kind, {}), others="kept"),
        },
        others="dropped",
    )


def _map(value: object) -> Logistic:
    return Logistic(**_MAP(value))
