"""The logits behind what a lane has read.

They are kept for each row as long as a look or a roll-back needs them. They come from passes over
several rows. A row keeps the pass's logits and its place in them: to cut them apart would cost a
copy at every token.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class LastLogits:
    """The logits of the next token of each row.

    Args:
        rows: how many.
    """

    def __init__(self, rows: int) -> None:
        self._last: list[tuple[Tensor, int] | None] = [None] * rows
        # Of each row: what `hold` was given, by the length of the text that it stands behind.
        self._held: list[dict[int, Tensor]] = [{} for _ in range(rows)]

    def widen(self, rows: int) -> None:
        """There are at least so many rows from now on."""
        self._last += [None] * (rows - len(self._last))
        self._held += [{} for _ in range(rows - len(self._held))]

    def of(self, row: int) -> Tensor | None:
        """The logits [V] behind what a row has read.

        None if they are gone.
        """
        last = self._last[row]
        return None if last is None else last[0][last[1]]

    def keep(self, rows: Sequence[int], logits: Tensor) -> None:
        """Keep ``logits`` [n, V] as the last of ``rows``.

        They stand behind what has just been read of these rows.
        """
        for i, row in enumerate(rows):
            self._last[row] = logits, i

    def hold(self, row: int, logits: dict[int, Tensor]) -> None:
        """Keep ``logits`` [1, V] for roll-backs of ``row``.

        A key is the length that its logits stand behind. They are kept until the row is read on.
        """
        self._held[row] = logits

    def forget(self, row: int) -> None:
        """A row has been read on."""
        self._last[row] = None
        self._held[row] = {}

    def roll_back(self, row: int, length: int) -> None:
        """A row has been cut back to ``length`` tokens."""
        held = self._held[row].get(length)
        self._last[row] = None if held is None else (held, 0)
