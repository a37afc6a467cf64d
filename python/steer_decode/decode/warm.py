"""What is kept of ended answers for prompts alike.

Clients send a conversation anew at every turn. The keys and values of the last one stay where they
are until another answer needs the place, and the next turn reads only what is new: the read marks
are moved back to the longest common prefix of ids, and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..core.shape import ModelShape
from ..core.transcript import Transcript, Writer

SHORTEST = 16  # tokens in common from which on a place is worth taking


class Warm:
    """Places of ended answers, in the order of their ends.

    Args:
        most_bytes: of keys and values that are kept.
        shapes: of the models, for the bytes that a token takes.
    """

    def __init__(self, most_bytes: int, shapes: Mapping[Writer, ModelShape]) -> None:
        self._most_bytes = most_bytes
        self._shapes = shapes
        self._kept: dict[int, Transcript] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, row: int, text: Transcript) -> list[int]:
        """Keep what was read in ``row``.

        Returns the rows that are to be given up for it.
        """
        if not any(text.read.values()):
            return [row]
        self._kept[row] = text
        left = [self._bytes(text) for text in self._kept.values()]
        gone = 0
        while sum(left[gone:]) > self._most_bytes:
            gone += 1
        return [self.oldest() for _ in range(gone)]

    def oldest(self) -> int:
        """The row kept longest, which is kept no more."""
        row = next(iter(self._kept))
        del self._kept[row]
        return row

    def take(self, ids: Sequence[int]) -> tuple[int, Transcript] | None:
        """The row that has read most of ``ids``, a prompt.

        With it its text, which has become that prompt.

        None where there is none that has read :data:`SHORTEST` tokens of it and half of whose text
        that is: a long conversation is not given up for the few words that all of them begin with.
        """
        best, most = None, 0
        for row, text in self._kept.items():
            common = _common(text.ids, ids)
            if common > most and common >= max(SHORTEST, len(text) / 2):
                best, most = row, common
        if best is None:
            return None
        text = self._kept.pop(best)
        kept = text.restart(ids)
        # The last token is always read: its logits are wanted.
        text.unread(min(kept, len(ids) - 1))
        return best, text

    def _bytes(self, text: Transcript) -> int:
        """Keys and values of what both models have read of a text."""
        return sum(self._shapes[writer].cache_bytes(n) for writer, n in text.read.items())


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading ids two texts share."""
    most = min(len(a), len(b))
    if a[:most] == b[:most]:
        return most
    low, high = 0, most  # the first that differs, by halves: slices compare fast
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low
