"""Signals: how sure a model is of its next token.

Each is one number.

A signal is read from raw logits, before temperature, penalties and masks. The score of a step is
the mean of its tokens' signals. Each signal keeps its natural unit and direction; policies compare
*confidences*, for which higher is always surer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from steer_kernels import LogitStats, Packed, unpack

from ..errors import SteerError
from .gate_rule import Region


@dataclass(frozen=True)
class Signal:
    """A named function from ``LogitStats`` to a tensor [B].

    It takes those of B rows, and gives floats. ``higher_is_surer`` says which way it points: true
    for the maximum logit, false for entropy. ``column`` is its column of ``sample_logits_packed``,
    if it is one: what the host has read already needs no tensor.
    """

    name: str
    read: Callable[[LogitStats], Tensor]
    higher_is_surer: bool = True
    column: Packed | None = None

    def confidence(self, value: float) -> float:
        """``value`` turned so that higher is surer."""
        return value if self.higher_is_surer else -value

    def sure(self, limit: float) -> Region:
        """The values that are as sure as ``limit``, or surer."""
        return Region.at_least(limit) if self.higher_is_surer else Region.at_most(limit)

    @property
    def named(self) -> bool:
        """Whether another process can read it by its name."""
        return SIGNALS.get(self.name) == self


# By name, and no lambdas, so that a router can be pickled.
def _max_logit(stats: LogitStats) -> Tensor:
    return stats.max_logit


def _max_prob(stats: LogitStats) -> Tensor:
    return stats.max_prob


def _entropy(stats: LogitStats) -> Tensor:
    return stats.entropy


def _margin(stats: LogitStats) -> Tensor:
    return stats.margin


SIGNALS: dict[str, Signal] = {
    signal.name: signal
    for signal in (
        Signal("max-logit", _max_logit, column=Packed.MAX_LOGIT),
        Signal("max-prob", _max_prob),
        Signal("entropy", _entropy, False, Packed.ENTROPY),
        Signal("margin", _margin),
    )
}


def get_signal(signal: str | Signal | Callable[[LogitStats], Tensor]) -> Signal:
    """A signal by name or function, or as it is.

    Of the user's own function higher is surer.

    Raises:
        SteerError: the name is unknown; the message lists those that exist.
    """
    if isinstance(signal, Signal):
        return signal
    if callable(signal):
        return Signal(getattr(signal, "__name__", "custom"), signal)
    if not isinstance(signal, str) or signal not in SIGNALS:
        raise SteerError(f"unknown signal {signal!r}: choose from {', '.join(SIGNALS)}")
    return SIGNALS[signal]


def read_signal(
    signal: Signal, packed: Tensor, rows: list[list[float]], places: Callable[[int], str]
) -> list[float]:
    """The signal, a number for each row.

    Args:
        signal: what is read.
        packed: what ``sample_logits_packed`` returned, a row for each.
        rows: the same, as the host has read it.
        places: where the next token of the i-th row stands, for messages.

    Raises:
        SteerError: the signal failed, or returned another shape or a NaN; the message names it and
            the step.
    """
    if signal.column is not None:
        return [row[signal.column] for row in rows]
    where = [places(i) for i in range(len(rows))]
    values: list[float] = signal_of(signal, unpack(packed).stats, where).tolist()
    for value, place in zip(values, where, strict=True):
        if math.isnan(value):  # no threshold holds against it
            raise SteerError(f"signal {signal.name!r} is NaN at {place}")
    return values


def signal_of(signal: Signal, stats: LogitStats, places: Sequence[str] = ()) -> Tensor:
    """The signal on the device: [B].

    Raises:
        SteerError: as :func:`read_signal`.
    """
    where = "at " + (", ".join(dict.fromkeys(places)) or "a token")
    try:
        values = signal.read(stats)
        if values.shape == stats.max_logit.shape:
            return values
    except Exception as error:
        raise SteerError(
            f"signal {signal.name!r} failed {where}: {type(error).__name__}: {error}"
        ) from error
    raise SteerError(
        f"signal {signal.name!r} must return one number a row, [{stats.max_logit.shape[0]}], "
        f"got shape {list(values.shape)} {where}"
    )
