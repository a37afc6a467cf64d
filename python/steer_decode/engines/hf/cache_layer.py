"""One layer of a KV cache: its buffers.

They are written in place and read as views.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from steer_kernels import kv_append_

from .span import CacheState, Span
from .watched import watched

TOUCH = 32  # positions of a row that are made safe at a time


class EndOfPass(Exception):
    """The end of a pass that fills the cache alone.

    All layers have their keys and values, and nothing else was wanted.
    """


def _alike(lengths: Sequence[int], first: int = 0) -> Iterator[tuple[slice, int]]:
    """Neighbours of one length, from place ``first`` on: on a GPU, whose rows are alike, all."""
    for length, same in groupby(lengths):
        last = first + len(list(same))
        yield slice(first, last), length
        first = last


class KVLayer(CacheLayerMixin):
    """One layer of a :class:`KVCache`.

    The models of transformers call it.

    Args:
        state: of the cache that it belongs to, which says where to write.
        window: keys that a token may attend to, itself included; None is all of them.

    Attributes:
        touched: positions of each place that hold what was written, or zeros. Memory that nobody
            has touched is no machine's burden, so on a CPU that is no more than passes have read:
            where many rows ran once, one that runs alone pays for itself.
    """

    is_compileable = False
    is_croppable = True

    def __init__(self, state: CacheState, window: int | None) -> None:
        super().__init__()
        self.state = state
        self.window = window
        self.is_sliding = window is not None
        self.touched: list[int] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        values = key_states if value_states is None else value_states
        self.touched = [0] * self.state.rows
        self.keys = self._room(key_states, key_states.shape, self.state.capacity)
        self.values = self._room(values, values.shape, self.state.capacity)
        self.is_initialized = True

    @torch.inference_mode(False)  # passes with and without a user's hooks write it
    def _room(self, like: Tensor, shape: Sequence[int], capacity: int) -> Tensor:
        self.state.made += 1
        size = self.state.rows, shape[1], capacity, shape[3]
        if like.device.type == "cpu":
            return like.new_empty(size)
        self.touched = [capacity] * self.state.rows
        return like.new_zeros(size)

    def _touch(self, span: Span) -> None:
        """Make what the pass of ``span`` reads beyond :attr:`touched` safe to read.

        Zeros, not what the memory held: a masked position has weight 0, and 0 times NaN is NaN. A
        pass that writes all of it needs none.
        """
        begin, end = min(self._touched(span)), span.width
        if span.ragged or span.start > begin:
            assert self.keys is not None
            end = min(-(-end // TOUCH) * TOUCH, self.keys.shape[2])
            self._clear(span.first, span.first + span.size, end)
        places = slice(span.first, span.first + span.size)
        self.touched[places] = [max(end, held) for held in self.touched[places]]

    def _clear(self, first: int, last: int, end: int) -> None:
        """Zeros where places before ``last`` hold nothing, up to position ``end``."""
        assert self.keys is not None
        assert self.values is not None
        for places, held in _alike(self.touched[first:last], first):
            if held < end:
                self.keys[places, :, held:end] = 0
                self.values[places, :, held:end] = 0

    def _touched(self, span: Span) -> list[int]:
        """Of the places that a pass runs over."""
        return self.touched[span.first : span.first + span.size]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values [n, H, N, D].

        Returns views of all that may be read.

        Raises:
            EndOfPass: the cache's ``ends_early`` is set, and this was the last layer of the pass. A
                compiled pass goes on, and one that FlopCounterMode looks at, to be what costs say.
        """
        indices = self.ready(key_states, value_states)
        if self.state.span.runs:  # [1, H, T, D]: each token for itself
            key_states, value_states = key_states.transpose(0, 2), value_states.transpose(0, 2)
        assert self.keys is not None
        assert self.values is not None
        kv_append_(self.keys, self.values, key_states, value_states, *indices)
        return self.written()

    def ready(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make the buffers ready for what a pass writes.

        Returns:
            Where it goes: rows, starts and counts, as ``kv_append_`` takes them.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        span = self.state.span
        if span.width > min(self._touched(span)):
            self._touch(span)
        rows, starts, counts = span.rows, span.starts, span.counts
        device = key_states.device
        if rows.device != device:  # a model spread over several devices
            return rows.to(device), starts.to(device), counts.to(device)
        return rows, starts, counts

    def written(self) -> tuple[Tensor, Tensor]:
        """All that may be read, once the layer is written.

        Raises:
            EndOfPass: as :meth:`update`.
        """
        state = self.state
        if state.ends_early and not (torch.compiler.is_compiling() or watched()):
            state.written += 1
            if state.written == state.layers:
                state.written = 0
                raise EndOfPass
        return self._views(state.span)

    def _views(self, span: Span) -> tuple[Tensor, Tensor]:
        """Keys and values that a pass may read."""
        assert self.keys is not None
        assert self.values is not None
        rows = slice(span.first, span.first + span.size)
        read = rows, slice(None), slice(self._skip(), span.width)
        return self.keys[read], self.values[read]

    def _skip(self) -> int:
        """Positions before the window of the oldest new token; a ragged pass masks them instead."""
        span = self.state.span
        if self.window is None or span.ragged:
            return 0
        return max(0, span.start - self.window + 1)

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        skip = self._skip()
        return self.state.span.width - skip, skip

    def get_seq_length(self) -> int:
        return self.state.span.start

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name in transformers 4

    @property
    def held_bytes(self) -> int:
        """Bytes of keys and values.

        All of a device's, what was touched of a host's.
        """
        if not self.is_initialized:
            return 0
        assert self.keys is not None
        assert self.values is not None
        each = sum(b[0].nbytes for b in (self.keys, self.values)) / max(1, self.keys.shape[2])
        return round(sum(self.touched) * each)

    def resize(self, capacity: int) -> None:
        """Move to buffers of ``capacity`` positions.

        They have as many rows as the cache. Keys move first, so that one copy is extra.
        """
        held = [min(length, capacity) for length in self.touched]
        self.touched = held + [0] * (self.state.rows - len(held))
        for name in ("keys", "values"):
            old: Tensor | None = getattr(self, name)
            if old is not None:
                new = self._room(old, old.shape, capacity)
                for places, length in _alike(held):  # what lies beyond is nothing, or zeros
                    new[places, :, :length] = old[places, :, :length]
                setattr(self, name, new)

    def release(self) -> None:
        """Give the buffers back."""
        self.keys = self.values = None  # type: ignore[assignment]
        self.is_initialized, self.touched = False, []

    def make_up(self, place: int, length: int) -> None:
        """Fill ``length`` positions of a place with random numbers.

        The keys and values are as large as others. See :meth:`KVCache.make_up`.
        """
        generator = torch.Generator().manual_seed(0)
        if not self.is_initialized:  # it has none of its own
            return
        most = max(range(len(self.touched)), key=self.touched.__getitem__)
        for buffer in (self.keys, self.values):
            assert buffer is not None
            scale = buffer[most, :, : min(self.touched[most], length)].float().std()
            size = buffer.shape[1], length, buffer.shape[3]
            drawn = torch.randn(size, generator=generator).to(buffer.device)
            buffer[place, :, :length] = (scale * drawn).to(buffer.dtype)
        self.touched[place] = max(self.touched[place], length)

    def exchange(self, a: int, b: int, length: int) -> None:
        """Swap the first ``length`` positions of two places."""
        if not self.is_initialized:
            return
        for place in (a, b):
            self._clear(place, place + 1, length)
            self.touched[place] = max(self.touched[place], length)
        for buffer in (self.keys, self.values):
            if length:
                kept = buffer[a, :, :length].clone()
                buffer[a, :, :length] = buffer[b, :, :length]
                buffer[b, :, :length] = kept
