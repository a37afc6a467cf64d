"""How long a pass takes.

A line through measurements: a pass over one token of one row takes ``ms``, each further row ``row``
more, each token beyond the first of its row ``token`` more, and a pass with such tokens ``read``
more, as an engine has a faster way for rows that only decode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ..errors import SteerError
from ..util.text import significant

SHARE = 1 / 128
"""Of a pass over one token, what each further row or token is assumed to take.

A pass over one token reads the weights once: 2 N bytes, for 2 N FLOPs. On a card of 3.35 TB/s and
989 TFLOP/s in bfloat16 (the data sheet of NVIDIA's H100 SXM) the arithmetic of a token takes 1/295
of the reading at full speed, and 1/128 at 43 % of it. Reading keys and values is left out: give
``row`` for long texts.
"""
LONGEST = 1e6  # ms of a pass


@dataclass(frozen=True)
class PassTime:
    """Milliseconds of a pass.

    Attributes:
        ms: over one token of one row.
        row: for each further row.
        token: for each token beyond the first of its row.
        read: for a pass with such tokens.
    """

    ms: float
    row: float
    token: float
    read: float = 0.0

    def seconds(self, rows: int, tokens: int) -> float:
        """Of a pass over ``tokens`` tokens of ``rows`` rows."""
        more = tokens - rows
        read = self.read if more else 0.0
        return 1e-3 * (self.ms + self.row * (rows - 1) + self.token * more + read)

    def __str__(self) -> str:
        parts = [
            f"{significant(self.ms)} ms over one token",
            f"{significant(self.row)} more for each further row",
            f"{significant(self.token)} for each further token of a row",
        ]
        if self.read:
            parts.append(f"{significant(self.read)} where there are such")
        return ", ".join(parts)

    @property
    def option(self) -> str:
        """As :func:`parse` reads it."""
        return ":".join(f"{each:.4g}" for each in astuple(self))

    @classmethod
    def of(cls, ms: float) -> PassTime:
        """What is assumed where only ``ms`` is known."""
        return cls(ms, ms * SHARE, ms * SHARE)


class Timed(NamedTuple):
    """A measured pass: ``ms`` over ``tokens`` tokens of ``rows`` rows."""

    rows: int
    tokens: int
    ms: float


def parse(name: str, text: str) -> PassTime:
    """Read ``MS``, ``MS:ROW``, ``MS:ROW:TOKEN`` or ``MS:ROW:TOKEN:READ``.

    Raises:
        SteerError: it is none of these; ``name`` is the option's.
    """
    wrong = SteerError(
        f"{name} must be MS, or MS:ROW:TOKEN:READ with ms of each further row, each further token "
        f"and a pass with such, as in 4.6 or 4.6:0.05:0.02, from 0 to {LONGEST:g} and MS above "
        f"it, got {text!r}"
    )
    try:
        given = [float(part) for part in text.split(":")]
    except ValueError:
        raise wrong from None
    sound = all(math.isfinite(each) and 0 <= each < LONGEST for each in given)
    if len(given) > 4 or not sound or given[0] <= 0:
        raise wrong
    assumed = PassTime.of(given[0])
    return PassTime(*given, *(assumed.row, assumed.token, assumed.read)[len(given) - 1 :])


def fit(timed: Sequence[Timed]) -> PassTime:
    """Fit a line of least squares.

    None of its numbers is negative. Errors count relative to the time of a pass, so that short
    passes weigh as much as long ones. Of all ways to hold some numbers at 0 the best is taken
    (four numbers have sixteen).

    Raises:
        SteerError: nothing was measured, a time that is not above 0, or no pass takes time of its
            own.
    """
    if not timed or any(not (math.isfinite(t.ms) and t.ms > 0) for t in timed):
        raise SteerError("passes must be timed, each with ms above 0: measure them again")
    scale = np.array([1 / t.ms for t in timed])
    full = np.array(
        [[1.0, t.rows - 1.0, float(t.tokens - t.rows), float(t.tokens > t.rows)] for t in timed]
    )
    target = np.ones(len(timed))
    best, least = np.zeros(4), math.inf
    for used in (c for n in (4, 3, 2, 1) for c in combinations(range(4), n)):
        columns = full[:, used] * scale[:, None]
        found = np.linalg.lstsq(columns, target, rcond=None)[0]
        error = float(((columns @ found - target) ** 2).sum())
        if (found >= 0).all() and error < least * (1 - 1e-9):
            best, least = np.zeros(4), error
            best[list(used)] = found
    if best[0] <= 0:
        raise SteerError(
            "no line goes through the timed passes: those over one token of one row must be among "
            "them, and take less than the others"
        )
    return PassTime(*map(float, best))
