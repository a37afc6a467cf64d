"""What an answer would cost, from its steps' lengths.

No model runs. A ledger keeps the books of one model over one answer as its lane would for an answer
that is written alone: read mark, forward passes, FLOPs, bytes. It serves where many routers are
compared on steps that were written once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from ..core.shape import ModelShape


@dataclass
class Ledger:
    """The costs of one model over one answer.

    Attributes:
        shape: its sizes.
        mark: tokens of the transcript that it has read.
        known: whether it has the logits behind the last of them.
        held: lengths of the text whose logits a judge has kept, until more is read.
        written: tokens that it wrote, discarded ones included.
        flops: of its forward passes.
        bytes_read: weights, keys and values, once a pass.
    """

    shape: ModelShape
    mark: int = 0
    known: bool = False
    held: set[int] = field(default_factory=set)
    written: int = 0
    flops: int = 0
    bytes_read: float = 0.0

    @property
    def flops_paper(self) -> float:
        """2 N for each token that it wrote."""
        return 2.0 * self.shape.active * self.written

    def catch_up(self, length: int) -> None:
        """Read to the end of a transcript of ``length`` tokens.

        For the next token's logits.
        """
        if self.mark >= length:
            if self.known:
                return
            self.roll_back(length - 1)
        self._pass(length - self.mark, 1)

    def write(self, length: int, n: int) -> None:
        """Write ``n`` tokens behind the first ``length``.

        The last of them stays unread.
        """
        for i in range(n):
            self.catch_up(length + i)
        self.written += n

    def grade(self, start: int, n: int, foreign: Iterable[int] = ()) -> None:
        """Read the ``n`` tokens from ``start`` on, for a grade.

        The head works on each. ``foreign`` are those, from 0, that are not its likeliest: it keeps
        the logits before them.
        """
        self.roll_back(start)
        again = not (self.mark == start and self.known)
        if again:
            self.roll_back(start - 1)
        self._pass(start + n - self.mark, n + again)
        self.held = {start + j for j in foreign}

    def roll_back(self, length: int) -> None:
        """Forget what it read beyond the first ``length`` tokens."""
        if length < self.mark:
            self.mark, self.known = length, length in self.held

    def _pass(self, new: int, heads: int) -> None:
        flops, read = _cost(self.shape, new, self.mark, heads)
        self.flops += flops
        self.bytes_read += read
        self.mark += new
        self.known = True
        self.held = set()


@lru_cache(maxsize=1 << 16)
def _cost(shape: ModelShape, new: int, past: int, heads: int) -> tuple[int, float]:
    return shape.flops(new, past, heads), shape.bytes_read(past, tokens=new)
