"""FoReaL (arXiv 2506.06998): the large model begins every step.

Its first tokens decide where a step goes; the small model writes the rest. Faithful: the large
model leads with the first ``n`` tokens of each step, and what the small model makes of it stays.
Ours: a step ends at a blank line, as everywhere here, while the paper cuts at sentences; and the
large model leads in all steps, while the paper's also draws lots whether it does.
"""

from __future__ import annotations

from typing import ClassVar

from ..core.signals import Signal, get_signal
from ..errors import SteerError
from ..util import checks
from .base import Policy


class Foreal(Policy):
    """The large model writes the first tokens of every step.

    Args:
        n: tokens that it writes.
        signal: what steps are scored by.

    Raises:
        SteerError: ``n`` is no whole number from 1 on.
    """

    name: ClassVar[str] = "foreal"

    def __init__(self, n: int = 8, signal: str | Signal = "max-logit") -> None:
        self.lead = checks.whole("n", n)
        if self.lead < 1:
            raise SteerError(f"n must be at least 1 token of the large model, got {n}")
        self.signal = get_signal(signal)

    def __str__(self) -> str:
        return f"{self.name}:n={self.lead}"
