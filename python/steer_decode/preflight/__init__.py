"""Whether two models fit, before a weight is loaded.

And what they will cost. ``pace`` times loaded ones, and says how long work will take.
"""

from __future__ import annotations

from .break_even import BreakEven, break_even
from .fit import Fit, examine
from .side import Side, read_side

__all__ = ["BreakEven", "Fit", "Side", "break_even", "examine", "read_side"]
