"""When answers are asked for."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import SteerError

KINDS = ("poisson", "steady", "closed")
_MOST = 1e6


@dataclass(frozen=True)
class Load:
    """How answers arrive.

    Attributes:
        kind: "poisson" at random, "steady" at even times, or "closed": so many conversations, each
            of which asks again as soon as it has its answer.
        value: answers a second; of "closed", conversations.
    """

    kind: str
    value: float

    @property
    def open(self) -> bool:
        """Whether they come whatever becomes of those before."""
        return self.kind != "closed"

    def gaps(self, seed: int) -> Iterator[float]:
        """Seconds between one arrival and the next."""
        chance = random.Random(f"{seed}:arrivals")
        while True:
            yield chance.expovariate(self.value) if self.kind == "poisson" else 1 / self.value

    def __str__(self) -> str:
        return f"{self.kind}:{self.value:g}"


def parse(text: str) -> Load:
    """Read ``poisson:RATE``, ``steady:RATE`` or ``closed:NUMBER``.

    Raises:
        SteerError: it is none of these.
    """
    kind, _, value = text.partition(":")
    if kind not in KINDS:
        raise SteerError(
            f"--arrivals must be poisson:RATE or steady:RATE (answers a second), or "
            f"closed:NUMBER (conversations at once), got {text!r}"
        )
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 < number <= _MOST:
        raise SteerError(
            f"--arrivals {kind} must have a number above 0, up to {_MOST:,.0f}, as in {kind}:5, "
            f"got {text!r}"
        )
    if kind == "closed" and number != int(number):
        raise SteerError(
            f"--arrivals closed must have a whole number, as in closed:16, got {text!r}"
        )
    return Load(kind, number)
