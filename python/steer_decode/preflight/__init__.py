"""Whether two models fit, and what they will cost, before any of their weights is loaded."""

from __future__ import annotations

from .break_even import BreakEven, break_even
from .fit import Fit, examine
from .side import Side, read_side

__all__ = ["BreakEven", "Fit", "Side", "break_even", "examine", "read_side"]
