"""A KV cache written in place, with read marks.

The mark of a row says how much of its text the cache holds. transformers' ``DynamicCache``
concatenates keys and values at every token, a copy of the whole context. Here each layer is one
preallocated buffer [rows, heads, capacity, head size], and a token is written into it by
``kv_append_``: the cost depends on the new tokens only. What a row holds is its first
``lengths[row]`` positions, so a roll-back is one assignment, and the next write lands on what was
forgotten.

A forward pass runs over rows that lie side by side in the buffer and reads them as a view, without
a copy. Which rows run together changes when a model hands over, not at every token; ``arrange``
then moves a row by exchanging it with one that does not run. That copies three rows' worth of
context, at the ends of steps, while every token of a step reads the context once.

Layers with a sliding window keep all keys as well: that is what lets a read mark move back for
free. They hand out only the window, so the attention costs what the window costs.

Attention that knows where each row ends is given whole buffers, by a subclass (``cpu/cache.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import ClassVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from .cache_layer import KVLayer
from .span import BLOCK, CacheState, Span, rounded_up, runs_of


class KVCache(Cache):
    """Keys and values of ``rows`` texts that one model reads.

    Args:
        windows: for each layer the sliding window, or None.
        rows: how many texts.
        limit: positions that no row exceeds; buffers do not grow beyond it.

    Attributes:
        state: rows, capacity, and the pass under way.
        lengths: the read mark of each row.
        touched: positions of each place that memory has been taken for; on a CPU those that were
            written, in blocks where rows differ.
        reach: a position beyond those of the pass under way, which stands behind its last token;
            None is none. See ``scaled_lane.py``.
    """

    layer_type: ClassVar[type[KVLayer]] = KVLayer
    state_type: ClassVar[type[CacheState]] = CacheState

    def __init__(self, windows: Sequence[int | None], rows: int = 1, limit: int = 2**31) -> None:
        self.state = self.state_type(rows, len(windows))
        layers = [self.layer_type(self.state, window) for window in windows]
        super().__init__(layers=layers)
        self.limit = limit
        self.lengths = [0] * rows
        self._place = list(range(rows))  # of each row, in the buffers
        self._line = torch.empty(0, dtype=torch.int64)
        self._counted = 0  # numbers in it
        self.reach: int | None = None
        self._reading: list[tuple[int, int]] = []  # rows of the pass under way, and their counts

    @property
    def rows(self) -> int:
        """Texts that there is room for."""
        return self.state.rows

    @property
    def capacity(self) -> int:
        """Positions that the buffers hold now."""
        return self.state.capacity

    @property
    def held_bytes(self) -> int:
        """Bytes taken for keys and values.

        On a CPU, those of what was written.
        """
        return sum(layer.held_bytes for layer in self.layers)

    @property
    def touched(self) -> list[int]:
        layer: KVLayer = self.layers[-1]  # the last to be written, so at least so much
        return layer.touched or [0] * self.rows

    def arrange(self, rows: Sequence[int]) -> list[int]:
        """Bring ``rows`` side by side, and return their new order.

        Rows that run already stay where they are; one that does not run makes room for each that
        lies apart.
        """
        places = sorted(self._place[row] for row in rows)
        first = places[0]
        if places[-1] - first + 1 != len(places):
            first = 0
            wanted = set(range(len(rows)))
            free = sorted(wanted.difference(places))
            for place in (p for p in places if p not in wanted):
                self._exchange(place, free.pop(0))
        at = {self._place[row]: row for row in rows}
        return [at[place] for place in range(first, first + len(rows))]

    def _exchange(self, a: int, b: int) -> None:
        row_a, row_b = self._place.index(a), self._place.index(b)
        length = max(self.lengths[row_a], self.lengths[row_b])
        for layer in self.layers:
            layer.exchange(a, b, length)
        self._place[row_a], self._place[row_b] = b, a

    def begin(self, rows: Sequence[int], counts: list[int], device: torch.device) -> Span:
        """Begin a forward pass over new tokens of ``rows``.

        Each has as many as ``counts`` says, and ``rows`` lie in this order. ``commit`` has to
        follow. Without, nothing has been read: the read marks stay.
        """
        starts = [self.lengths[row] for row in rows]
        count, start, n = counts[0], starts[0], len(rows)
        width = start + count
        ragged = n > 1 and (starts.count(start) < n or counts.count(count) < n)
        if ragged:
            start, width = max(starts), max(map(add, starts, counts))
        if width > self.capacity:
            self._grow(width)
        first = self._place[rows[0]]
        line = self._numbers(device)
        if ragged:
            at, new = (torch.tensor(values, device=device) for values in (starts, counts))
        else:
            at, new = line[start : start + 1], line[count : count + 1]
            if n > 1:
                at, new = at.expand(n), new.expand(n)
        self.state.span = Span(first, n, start, width, ragged, line[first : first + n], at, new)
        self._reading = list(zip(rows, counts, strict=True))
        return self.state.span

    def begin_packed(self, rows: Sequence[int], counts: list[int], device: torch.device) -> Span:
        """Begin a pass whose tokens stand one after another.

        As :meth:`begin`, with the tokens of all ``rows`` in one line. The models of transformers
        take it for one text. ``kv_append_`` writes every token where it belongs, and attention has
        to look at ``Span.runs``.
        """
        starts = [self.lengths[row] for row in rows]
        width = max(map(add, starts, counts))
        if width > self.capacity:
            self._grow(width)
        first = self._place[rows[0]]
        places: list[int] = []
        at: list[int] = []
        for i, (start, count) in enumerate(zip(starts, counts, strict=True)):
            places += [first + i] * count
            at += range(start, start + count)
        indices = torch.tensor([places, at, [1] * len(at)], device=device)
        runs = tuple(runs_of(starts, counts, indices[1]))
        self.state.span = Span(
            first, len(rows), max(starts), width, True, indices[0], indices[1], indices[2], runs
        )
        self._reading = list(zip(rows, counts, strict=True))
        return self.state.span

    def positions(self, length: int) -> Tensor:
        """Positions [n, length] of the pass's new tokens.

        [1, T] if it is packed. A pass must have begun.
        """
        span = self.state.span
        if span.runs:
            return span.starts[None]
        if length == span.size == 1:
            return span.starts[:, None]
        # A pass whose shape is rounded up may be longer than the buffers are.
        line = self._numbers(span.starts.device, length)
        if not span.ragged:
            return line[span.start : span.start + length].expand(span.size, length)
        positions = span.starts[:, None]
        if length > 1:
            positions = positions + line[:length]
        # Padding may point behind the last position, where a table of positions has no row.
        positions = positions.clamp_max(span.width - 1)
        if self.reach is not None:
            positions[:, -1] = self.reach
        return positions

    def _numbers(self, device: torch.device, least: int = 0) -> Tensor:
        """0, 1, 2 and so on: a view of them costs less than a new tensor of indices a token."""
        if self._counted <= max(self.capacity, self.rows, least):
            self._counted = 2 * max(self.capacity, self.rows, least) + 1
            self._line = torch.arange(self._counted, device=device)
        return self._line

    def begin_fixed(
        self, rows: Sequence[int], places: Tensor, starts: Tensor, counts: Tensor, width: int
    ) -> Span:
        """Begin a pass over tensors of fixed place.

        The host need not know what is in them.

        Args:
            rows: those that run; they lie first among ``places``, and idle ones may follow.
            places, starts, counts: int64 [n] on the device of the model, as ``kv_append_`` takes
                them; no position that is written lies beyond ``width``.
            width: what :meth:`reserve` returned.
        """
        start = max(self.lengths[row] for row in rows)
        first, size = self.first(rows), len(places)
        self.state.span = Span(first, size, start, width, True, places, starts, counts)
        return self.state.span

    def first(self, rows: Sequence[int]) -> int:
        """The place of the first of ``rows``.

        They lie in this order.
        """
        return self._place[rows[0]]

    def reserve(self, width: int) -> int:
        """Make room for ``width`` positions.

        Returns them rounded up to one of a few sizes.
        """
        if width > self.capacity:
            self._grow(width)
        return rounded_up(width, BLOCK, self.capacity)

    def make_up(self, row: int, length: int) -> None:
        """Give ``row`` random keys and values of ``length`` positions.

        This is for trials: no pass has written them. They are as large as those that are there; a
        pass must have written some.
        """
        self.reserve(length + 1)
        for layer in self.layers:
            layer.make_up(self._place[row], length)
        self.lengths[row] = length

    def commit(self) -> None:
        """Move the read marks over what the pass has read."""
        for row, count in self._reading:
            self.lengths[row] += count

    def roll_back(self, row: int, length: int) -> None:
        """Forget what ``row`` holds beyond its first ``length`` positions."""
        self.lengths[row] = min(self.lengths[row], length)

    def widen(self, rows: int) -> None:
        """Make room for at least ``rows`` rows.

        The new ones are empty. There are twice as many each time, so that all copies together cost
        what the last one does.
        """
        more = max(rows, 2 * self.rows) - self.rows if self.capacity else rows - self.rows
        self.lengths += [0] * more
        self._place += range(self.rows, self.rows + more)
        self.state.rows += more
        self._resize(self.capacity)

    def shrink(self) -> None:
        """Give back memory that no row needs.

        All of it where nothing is read; else what is four times too long.
        """
        longest = max(self.lengths)
        if longest == 0:
            for layer in self.layers:
                layer.release()
            self.state.capacity = 0
        elif longest * 4 < self.capacity and self.capacity > 2 * BLOCK:
            self._resize(-(-(longest + longest // 2) // BLOCK) * BLOCK)

    def narrow(self) -> None:
        """Room for one row again; none may be open.

        Where many rows ran, an answer that comes alone would take buffers as large as theirs.
        """
        for layer in self.layers:
            layer.release()
        self.state.rows, self.state.capacity = 1, 0
        self.lengths, self._place = [0], [0]

    def _resize(self, capacity: int) -> None:
        if self.capacity:
            for layer in self.layers:
                layer.resize(capacity)
            self.state.capacity = capacity

    def _grow(self, width: int) -> None:
        # By half as much again, so that all copies together are at most twice the final size. The
        # first time, too: the token after a prompt would grow what its last token has filled.
        wanted = width + width // 2
        capacity = min(-(-wanted // BLOCK) * BLOCK, max(self.limit, width))
        for layer in self.layers:
            layer.resize(capacity)
        self.state.capacity = capacity
