"""A KV cache that is written in place, with a watermark for each row.

transformers' ``DynamicCache`` concatenates keys and values at every token, a copy of the whole
context. Here each layer is one preallocated buffer [rows, heads, capacity, head size], and a token
is written into it by ``kv_append_``: the cost depends on the new tokens only. What a row holds is
its first ``lengths[row]`` positions, so a roll-back is one assignment, and the next write lands on
what was forgotten.

A forward pass runs over rows that lie side by side in the buffer and reads them as a view, without
a copy. Which rows run together changes when a model hands over, not at every token; ``arrange``
then moves a row by exchanging it with one that does not run. That copies three rows' worth of
context, at the ends of steps, while every token of a step reads the context once.

Layers with a sliding window keep all keys as well: that is what lets a watermark move back for
free. They hand out only the window, so the attention costs what the window costs.

Attention that knows where each row ends (``attention.py``) is given whole buffers, marked as ours.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from steer_kernels import kv_append_

from .span import Span, rounded_up

BLOCK = 128


class KVLayer(CacheLayerMixin):
    """One layer of a :class:`KVCache`, as the models of transformers call it.

    Args:
        cache: the cache that it belongs to, which says where to write.
        window: keys that a token may attend to, itself included; None is all of them.
    """

    is_compileable = False
    is_croppable = True

    def __init__(self, cache: KVCache, window: int | None) -> None:
        super().__init__()
        # No reference cycle: a cache goes with the answer it is of, not when the collector runs.
        self._cache = weakref.ref(cache)
        self.window = window
        self.is_sliding = window is not None
        self._places: tuple[int, int] | None = None  # that the marked views run over
        self._marked: tuple[Tensor, Tensor]

    @property
    def cache(self) -> KVCache:
        """The cache that the layer belongs to."""
        cache = self._cache()
        assert cache is not None, "a layer does not outlive its cache"
        return cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        values = key_states if value_states is None else value_states
        self.keys = self._room(key_states)
        self.values = self._room(values)
        self._places = None
        self.is_initialized = True

    def _room(self, new: Tensor) -> Tensor:
        # Zeros, not what the memory held: a masked position has weight 0, and 0 times NaN is NaN.
        _, heads, _, width = new.shape
        return new.new_zeros(self.cache.rows, heads, self.cache.capacity, width)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes the new keys and values [n, H, N, D] and returns views of all that may be read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        span = self.cache.span
        indices = span.rows, span.starts, span.counts
        if span.rows.device != key_states.device:  # a model spread over several devices
            indices = tuple(index.to(key_states.device) for index in indices)  # type: ignore[assignment]
        kv_append_(self.keys, self.values, key_states, value_states, *indices)
        if self.cache.direct:
            return self._direct_views(span)
        rows = slice(span.first, span.first + span.size)
        read = rows, slice(None), slice(self._skip(), span.width)
        return self.keys[read], self.values[read]

    def _direct_views(self, span: Span) -> tuple[Tensor, Tensor]:
        """Keys and values of the rows of a pass, all positions; made anew where rows change."""
        places = span.first, span.first + span.size
        if places != self._places:
            assert self.keys is not None
            assert self.values is not None
            self._marked = self.keys[slice(*places)], self.values[slice(*places)]
            self._marked[0].steer_layer = weakref.ref(self)  # type: ignore[attr-defined]
            self._places = places
        return self._marked

    def _skip(self) -> int:
        """Positions before the window of the oldest new token; a ragged pass masks them instead."""
        span = self.cache.span
        if self.window is None or span.ragged:
            return 0
        return max(0, span.start - self.window + 1)

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        skip = self._skip()
        return self.cache.span.width - skip, skip

    def get_seq_length(self) -> int:
        return self.cache.span.start

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name in transformers 4

    def grow(self, capacity: int) -> None:
        """Moves to buffers of ``capacity`` positions, keys first, so that one copy is extra."""
        for name in ("keys", "values"):
            old: Tensor | None = getattr(self, name)
            if old is not None:
                rows, heads, length, width = old.shape
                new = old.new_zeros(rows, heads, capacity, width)
                new[:, :, :length] = old
                setattr(self, name, new)
        self._places = None

    def exchange(self, a: int, b: int, length: int) -> None:
        """Swaps the first ``length`` positions of two places."""
        for buffer in (self.keys, self.values):
            if buffer is not None and length:
                kept = buffer[a, :, :length].clone()
                buffer[a, :, :length] = buffer[b, :, :length]
                buffer[b, :, :length] = kept


def layer_of(keys: Tensor) -> KVLayer | None:
    """The layer that handed out ``keys`` whole, for attention that reads ``cache.span``."""
    layer: weakref.ref[KVLayer] | None = getattr(keys, "steer_layer", None)
    return None if layer is None else layer()


class KVCache(Cache):
    """Keys and values of ``rows`` texts that one model reads.

    Args:
        windows: for each layer the sliding window, or None.
        rows: how many texts.
        limit: positions that no row exceeds; buffers do not grow beyond it.

    Attributes:
        lengths: the watermark of each row.
        capacity: positions that the buffers hold now.
        span: of the forward pass under way, or of the last one.
        direct: layers hand out whole buffers, of which each row may read up to its own end.
        served: layers of the pass whose attention has done so.
    """

    def __init__(self, windows: Sequence[int | None], rows: int = 1, limit: int = 2**31) -> None:
        super().__init__(layers=[KVLayer(self, window) for window in windows])
        self.rows = rows
        self.limit = limit
        self.lengths = [0] * rows
        self.capacity = 0
        self._place = list(range(rows))  # of each row, in the buffers
        self._line = nothing = torch.empty(0, dtype=torch.int64)
        self.span = Span(0, 0, 0, 0, False, nothing, nothing, nothing)
        self.direct, self.served = False, 0
        self._reading: list[tuple[int, int]] = []  # rows of the pass under way, and their counts

    def arrange(self, rows: Sequence[int]) -> list[int]:
        """Brings ``rows`` side by side; returns them in the order in which they then lie.

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
        """Prepares a forward pass of ``counts`` new tokens for ``rows``, which lie in this order.

        ``commit`` has to follow it. Without, nothing has been read: the watermarks stay.
        """
        starts = [self.lengths[row] for row in rows]
        count, start, n = counts[0], starts[0], len(rows)
        width = start + count
        ragged = n > 1 and (starts.count(start) < n or counts.count(count) < n)
        if ragged:
            width = max(a + b for a, b in zip(starts, counts, strict=True))
        if width > self.capacity:
            self._grow(width)
        first = self._place[rows[0]]
        line = self._numbers(device)
        if ragged:
            at, new = (torch.tensor(values, device=device) for values in (starts, counts))
        else:
            at, new = line[start : start + 1].expand(n), line[count : count + 1].expand(n)
        places = line[first : first + n]
        self.span = Span(first, n, max(starts), width, ragged, places, at, new)
        self._reading = list(zip(rows, counts, strict=True))
        return self.span

    def positions(self, length: int) -> Tensor:
        """Positions [n, length] of the new tokens of the pass that has begun."""
        span = self.span
        line = self._numbers(span.starts.device)
        if not span.ragged:
            return line[span.start : span.start + length].expand(span.size, length)
        positions = span.starts[:, None]
        if length > 1:
            positions = positions + line[:length]
        # Padding may point behind the last position, where a table of positions has no row.
        return positions.clamp_max(span.width - 1)

    def _numbers(self, device: torch.device) -> Tensor:
        """0, 1, 2 and so on: a view of them costs less than a new tensor of indices a token."""
        if len(self._line) <= max(self.capacity, self.rows) or self._line.device != device:
            self._line = torch.arange(2 * max(self.capacity, self.rows) + 1, device=device)
        return self._line

    def begin_fixed(
        self, rows: Sequence[int], places: Tensor, starts: Tensor, counts: Tensor, width: int
    ) -> Span:
        """Prepares a pass over tensors of fixed place, whose contents the host need not know.

        Args:
            rows: those that run; they lie first among ``places``, and idle ones may follow.
            places, starts, counts: int64 [n] on the device of the model, as ``kv_append_`` takes
                them; no position that is written lies beyond ``width``.
            width: what :meth:`reserve` returned.
        """
        start = max(self.lengths[row] for row in rows)
        self.span = Span(self.first(rows), len(places), start, width, True, places, starts, counts)
        return self.span

    def first(self, rows: Sequence[int]) -> int:
        """The place of the first of ``rows``, which lie in this order."""
        return self._place[rows[0]]

    def reserve(self, width: int) -> int:
        """Makes room for ``width`` positions; returns them rounded up to one of a few sizes."""
        if width > self.capacity:
            self._grow(width)
        return rounded_up(width, BLOCK, self.capacity)

    def commit(self) -> None:
        """Moves the watermarks over what the forward pass has read."""
        for row, count in self._reading:
            self.lengths[row] += count

    def roll_back(self, row: int, length: int) -> None:
        """Forgets what ``row`` holds beyond its first ``length`` positions."""
        self.lengths[row] = min(self.lengths[row], length)

    def _grow(self, width: int) -> None:
        # By half as much again, so that all copies together are at most twice the final size.
        wanted = max(width, self.capacity + self.capacity // 2)
        capacity = min(-(-wanted // BLOCK) * BLOCK, max(self.limit, width))
        for layer in self.layers:
            layer.grow(capacity)
        self.capacity = capacity
