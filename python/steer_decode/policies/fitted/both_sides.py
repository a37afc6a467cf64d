"""The calibration of the router ``both-sides``.

Thresholds of one pair, by share and cost.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import inf
from typing import Any, ClassVar

from ...core.signals import SIGNALS
from ...core.transcript import Writer
from ...util import documents
from .file import FittedFile, Phrases

COSTS = {"papers": "flops_paper", "processed": "flops_processed", "bytes": "bytes_read"}
COST_NAMES = tuple(COSTS)
_MAKE = "make one with `steer calibrate --router both-sides`"


@dataclass(frozen=True)
class Thresholds:
    """See :class:`~steer_decode.policies.BothSides`; all are confidences: higher is surer.

    ``keep`` is in nats, the others in the signal's unit.
    """

    sure: float
    keep: float
    lost: float
    doubt: float
    hold: float

    def towards(self, other: Thresholds, part: float) -> Thresholds:
        """The thresholds that lie ``part`` of the way to ``other``."""
        mine, theirs = asdict(self), asdict(other)
        return Thresholds(**{k: mine[k] + part * (theirs[k] - mine[k]) for k in mine})


# Of either model alone, whatever the values of the signal.
ALONE: dict[Writer, Thresholds] = {
    "small": Thresholds(-inf, -inf, -inf, -inf, 0.0),
    "large": Thresholds(inf, 0.0, inf, -inf, 0.0),
}


@dataclass(frozen=True)
class Knot:
    """Thresholds, and the large model's share of tokens with them.

    It is the share that was seen in a run.
    """

    share: float
    thresholds: Thresholds


@dataclass(frozen=True)
class Plan:
    """How to spend by one cost.

    Attributes:
        signal: name of the signal that is looked at.
        over: how a draft's tokens become one number, "min" or "mean".
        lowest: below every value of the signal; ``lost`` at it sends no step to the large model.
        knots: by rising share, from 0 to 1.
        fix: what the large model writes of a draft that it refuses, "token" or "step".
    """

    signal: str
    over: str
    lowest: float
    knots: Sequence[Knot]
    fix: str = "step"

    def thresholds(self, share: float) -> Thresholds:
        """Thresholds of the knot at ``share``, or between its neighbours.

        At 0 and 1 those of one model alone.
        """
        if share <= 0 or share >= 1:
            return ALONE["small" if share <= 0 else "large"]
        right = bisect_left([knot.share for knot in self.knots], share)
        right = min(max(right, 1), len(self.knots) - 1)
        low, high = self.knots[right - 1], self.knots[right]
        part = (share - low.share) / (high.share - low.share)
        return low.thresholds.towards(high.thresholds, min(max(part, 0.0), 1.0))


@dataclass(frozen=True)
class BothSidesCalibration(FittedFile):
    """What was found out about a pair, without labels.

    Attributes:
        pair: fingerprint of the pair.
        plans: for each cost.
        agreement: for the reader, how well signals tell what the large model consents to.
        settings: for the reader, how it was made.
    """

    KIND: ClassVar[str] = "both-sides"

    pair: str
    plans: Mapping[str, Plan]
    agreement: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def phrases(cls, kind: str) -> Phrases:
        router = f" of router {cls.KIND!r}"
        return Phrases("calibration", "was made", f"is no calibration{router}", _MAKE, router)

    @classmethod
    def read(cls, value: Any, kind: str) -> BothSidesCalibration:
        record = _FILE(value)
        if set(record["plans"]) != set(COSTS):
            raise documents.Fault(f"plans for {', '.join(record['plans']) or 'nothing'}")
        return cls(**record)

    def members(self) -> Mapping[str, Any]:
        return asdict(self)


_NUMBER = documents.number()
_THRESHOLDS = documents.record(dict.fromkeys(("sure", "keep", "lost", "doubt", "hold"), _NUMBER))
_KNOT = documents.record({"share": documents.number(0, 1), "thresholds": _THRESHOLDS})


def _knot(value: object) -> Knot:
    record = _KNOT(value)
    return Knot(float(record["share"]), Thresholds(**record["thresholds"]))


def _knots(value: object) -> list[Knot]:
    knots: list[Knot] = documents.listed(_knot, least=2)(value)
    if any(low.share >= high.share for low, high in pairwise(knots)):
        raise documents.Fault("shares do not rise from knot to knot")
    return knots


_PLAN = documents.record(
    {
        "signal": documents.one_of(SIGNALS),
        "over": documents.one_of(("min", "mean")),
        "lowest": _NUMBER,
        "knots": _knots,
    },
    {"fix": documents.one_of(("token", "step"))},
)
_FILE = documents.record(
    {"pair": documents.text, "plans": documents.mapped(lambda value: Plan(**_PLAN(value)))},
    dict.fromkeys(("agreement", "settings"), documents.mapped(documents.anything)),
)
