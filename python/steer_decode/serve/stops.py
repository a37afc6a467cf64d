"""Texts that end an answer, wherever tokens split them."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Looks for some texts in a text that grows.

    That is the one that is complete first, however the text is split; of two that end together the
    longer one. What may be the beginning of one of them is held until it is known not to be.

    Args:
        texts: none of them empty.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = tuple(texts)
        self._longest = max((len(text) for text in texts), default=0)
        self._tail = ""  # what is held

    def push(self, piece: str) -> tuple[int, bool]:
        """Take ``piece``, and say how much may be shown.

        That is of what is held and of it, together.

        Returns:
            Characters, and whether one of the texts stands behind them.
        """
        if not self._texts:
            return len(piece), False
        text = self._tail + piece
        found = [(at + len(s), at) for s in self._texts if (at := text.find(s)) >= 0]
        if found:
            self._tail = ""
            return min(found)[1], True
        safe = len(text) - self._held(text)
        self._tail = text[safe:]
        return safe, False

    def _held(self, text: str) -> int:
        """Length of the longest end of ``text`` that begins one of the texts."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(stop.startswith(end) for stop in self._texts):
                return length
        return 0
