"""A calibration: what the scores of a pair look like.

It is saved so that a single answer can be judged. STEER fits its mixture to a cohort of traces. A
single question has no cohort, so the online router takes the mixtures of a calibration run, one for
each source (who wrote the step) and step-index bin, for scores drift down with the index. That is
this project's online mode, not the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ...core.signals import SIGNALS
from ...core.transcript import WRITERS, Writer
from ...util import documents
from .file import FittedFile, Phrases
from .mixture import TwoGaussians

LAST_BIN = 4
BINS = range(LAST_BIN + 1)


def index_bin(index: int) -> int:
    """Step-index bin: 0 to 3, and 4 for later ones."""
    return min(index, LAST_BIN)


@dataclass(frozen=True)
class Calibration(FittedFile):
    """Mixtures of one pair's step scores under one signal.

    Attributes:
        pair: fingerprint of the pair.
        signal: name of the signal whose confidences were fitted.
        fits: for each source, mixtures by step-index bin; -1 is that of all steps together, the
            stand-in where a bin could not be fitted. None is a source without any.
        counts: how many steps were fitted, likewise.
        settings: how the scores were gathered, for the reader.
    """

    pair: str
    signal: str
    fits: Mapping[Writer, Mapping[int, TwoGaussians]]
    counts: Mapping[Writer, Mapping[int, int]]
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """What tells this calibration from another."""
        fits = {w: {b: asdict(m) for b, m in self.fits[w].items()} for w in self.fits}
        return f"{self.signal} {fits}"

    def posterior(self, writer: Writer, index: int, confidence: float) -> float | None:
        """Probability that a step is a confident one.

        None where no mixture could be fitted.
        """
        mixture = self.mixture(writer, index)
        return None if mixture is None else mixture.posterior(confidence)

    def mixture(self, writer: Writer, index: int) -> TwoGaussians | None:
        """The mixture of the scores of step ``index``.

        None where none could be fitted.
        """
        fits = self.fits[writer]
        return fits.get(index_bin(index), fits.get(-1))

    @classmethod
    def phrases(cls, kind: str) -> Phrases:
        way = "make one with `steer calibrate`"
        return Phrases("calibration", "was made", "is not a calibration", way)

    @classmethod
    def read(cls, value: Any, kind: str) -> Calibration:
        return cls(**_RECORD(value))

    def members(self) -> Mapping[str, Any]:
        return {
            "pair": self.pair,
            "signal": self.signal,
            "settings": dict(self.settings),
            "counts": {w: {str(b): n for b, n in self.counts[w].items()} for w in WRITERS},
            "fits": {w: {str(b): asdict(m) for b, m in self.fits[w].items()} for w in WRITERS},
        }


_NUMBER = documents.number()
_VARIANCE = documents.number(1e-30)
_WEIGHT = documents.number(1e-300, 1 - 1e-12)  # whose logarithm, and that of the rest, are finite
_BIN = documents.one_of([str(key) for key in (-1, *range(LAST_BIN + 1))])
_MIXTURE = documents.record(
    {
        "weight_c": _WEIGHT,
        "mean_u": _NUMBER,
        "var_u": _VARIANCE,
        "mean_c": _NUMBER,
        "var_c": _VARIANCE,
    }
)


def _by_bin(check: documents.Check) -> documents.Check:
    each = documents.mapped(check, key=lambda name: int(_BIN(name)))
    return documents.record(dict.fromkeys(WRITERS, each), others="dropped")


_RECORD = documents.record(
    {
        "pair": documents.text,
        "signal": documents.one_of(SIGNALS),
        "fits": _by_bin(lambda value: TwoGaussians(**_MIXTURE(value))),
        "counts": _by_bin(documents.whole()),
        "settings": documents.record({}, {"gamma": documents.number(0, 1)}, others="kept"),
    },
    others="dropped",
)
