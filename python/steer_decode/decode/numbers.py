"""Uniform numbers of one answer, each used once."""

from __future__ import annotations

import random
from collections import deque


class Numbers:
    """Uniform numbers in [0, 1), looked at before use.

    Args:
        seed: whatever ``random.Random`` takes; one seed gives the same numbers everywhere.
    """

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(seed)
        self._next: deque[float] = deque()

    def peek(self, n: int) -> list[float]:
        """The next ``n`` numbers.

        Those that were looked at in vain come again.
        """
        while len(self._next) < n:
            self._next.append(self._random.random())
        return list(self._next)[:n]

    def use(self) -> None:
        """One of those that were looked at is used up."""
        if self._next:
            self._next.popleft()
