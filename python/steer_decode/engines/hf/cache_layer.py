"""One layer of a KV cache: its buffers.

They are written in place and read as views.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from steer_kernels import kv_append_

from .span import CacheState, Span
from .watched import watched

TOUCH = 32  # positions of all rows that are made safe at a time


class EndOfPass(Exception):
    """The end of a pass that fills the cache alone.

    All layers have their keys and values, and nothing else was wanted.
    """


class KVLayer(CacheLayerMixin):
    """One layer of a :class:`KVCache`.

    The models of transformers call it.

    Args:
        state: of the cache that it belongs to, which says where to write.
        window: keys that a token may attend to, itself included; None is all of them.

    Attributes:
        touched: positions of all rows that hold what was written, or zeros. Memory that nobody has
            touched is no machine's burden, so on a CPU that is no more than passes have read.
    """

    is_compileable = False
    is_croppable = True

    def __init__(self, state: CacheState, window: int | None) -> None:
        super().__init__()
        self.state = state
        self.window = window
        self.is_sliding = window is not None
        self.touched = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        values = key_states if value_states is None else value_states
        self.keys = self._room(key_states, key_states.shape, self.state.capacity)
        self.values = self._room(values, values.shape, self.state.capacity)
        self.is_initialized = True

    @torch.inference_mode(False)  # passes with and without a user's hooks write it
    def _room(self, like: Tensor, shape: Sequence[int], capacity: int) -> Tensor:
        size = self.state.rows, shape[1], capacity, shape[3]
        if like.device.type == "cpu":
            return like.new_empty(size)
        self.touched = capacity
        return like.new_zeros(size)

    def _touch(self, span: Span) -> None:
        """Make what the pass of ``span`` reads beyond :attr:`touched` safe to read.

        Zeros, not what the memory held: a masked position has weight 0, and 0 times NaN is NaN. A
        pass that writes all of it needs none.
        """
        assert self.keys is not None
        assert self.values is not None
        begin, end = self.touched, span.width
        if span.ragged or span.size < self.state.rows or span.start > begin:
            end = min(-(-end // TOUCH) * TOUCH, self.keys.shape[2])
            self.keys[:, :, begin:end] = 0
            self.values[:, :, begin:end] = 0
        self.touched = end

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values [n, H, N, D].

        Returns views of all that may be read.

        Raises:
            EndOfPass: the cache's ``ends_early`` is set, and this was the last layer of the pass. A
                compiled pass goes on, and one that FlopCounterMode looks at, to be what costs say.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        state = self.state
        span = state.span
        indices = span.rows, span.starts, span.counts
        if span.runs:  # [1, H, T, D]: each token for itself
            key_states, value_states = key_states.transpose(0, 2), value_states.transpose(0, 2)
        if span.rows.device != key_states.device:  # a model spread over several devices
            indices = tuple(index.to(key_states.device) for index in indices)  # type: ignore[assignment]
        if span.width > self.touched:
            self._touch(span)
        kv_append_(self.keys, self.values, key_states, value_states, *indices)
        if state.ends_early and not (torch.compiler.is_compiling() or watched()):
            state.written += 1
            if state.written == state.layers:
                state.written = 0
                raise EndOfPass
        return self._views(span)

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
        per_position = sum(b.nbytes for b in (self.keys, self.values)) / max(1, self.keys.shape[2])
        return round(self.touched * per_position)

    def resize(self, capacity: int) -> None:
        """Move to buffers of ``capacity`` positions.

        They have as many rows as the cache. Keys move first, so that one copy is extra.
        """
        self.touched = min(self.touched, capacity)
        held = self.touched  # what lies beyond is nothing, or zeros
        for name in ("keys", "values"):
            old: Tensor | None = getattr(self, name)
            if old is not None:
                new = self._room(old, old.shape, capacity)
                new[: len(old), :, :held] = old[:, :, :held]
                new[len(old) :, :, :held] = 0
                setattr(self, name, new)

    def release(self) -> None:
        """Give the buffers back."""
        self.keys = self.values = None  # type: ignore[assignment]
        self.is_initialized, self.touched = False, 0

    def make_up(self, place: int, length: int) -> None:
        """Fill ``length`` positions of a place with random numbers.

        The keys and values are as large as others. See :meth:`KVCache.make_up`.
        """
        generator = torch.Generator().manual_seed(0)
        if not self.is_initialized:  # it has none of its own
            return
        for buffer in (self.keys, self.values):
            assert buffer is not None
            scale = buffer[:, :, : min(self.touched, length)].float().std()
            buffer[:, :, self.touched : length] = 0
            size = buffer.shape[1], length, buffer.shape[3]
            drawn = torch.randn(size, generator=generator).to(buffer.device)
            buffer[place, :, :length] = (scale * drawn).to(buffer.dtype)
        self.touched = max(self.touched, length)

    def exchange(self, a: int, b: int, length: int) -> None:
        """Swap the first ``length`` positions of two places."""
        for buffer in (self.keys, self.values):
            if buffer is not None and length:
                kept = buffer[a, :, :length].clone()
                buffer[a, :, :length] = buffer[b, :, :length]
                buffer[b, :, :length] = kept
