"""A KV cache that hands out whole buffers.

Each row may read them up to its own end, which attention of ours knows. Whole buffers are marked
with the layer that they are of, so that it knows them too. Passes that go to other attention are
handed what :class:`KVCache` hands out.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from torch import Tensor
from transformers import PreTrainedModel

from ..cache import KVCache
from ..cache_layer import KVLayer
from ..span import CacheState, Span
from .enabled import enabled


class DirectState(CacheState):
    """A cache's state, and what our attention does with it.

    Its layers know nothing else of the cache.

    Attributes:
        direct: layers hand out whole buffers.
        served: layers of the pass whose attention has read them.
    """

    def __init__(self, rows: int, layers: int) -> None:
        super().__init__(rows, layers)
        self.direct, self.served = False, 0


class DirectLayer(KVLayer):
    """One layer of a :class:`DirectCache`."""

    state: DirectState

    def __init__(self, state: DirectState, window: int | None) -> None:
        super().__init__(state, window)
        self._marked: tuple[Tensor, Tensor] | None = None
        self._places = 0, 0  # that the marked views run over

    def _views(self, span: Span) -> tuple[Tensor, Tensor]:
        """Whole keys and values of a pass's rows; made anew where rows change."""
        if not self.state.direct:
            return super()._views(span)
        places = span.first, span.first + span.size
        if self._marked is None or places != self._places:
            assert self.keys is not None
            assert self.values is not None
            self._marked = self.keys[slice(*places)], self.values[slice(*places)]
            self._marked[0].steer_layer = weakref.ref(self)  # type: ignore[attr-defined]
            self._places = places
        return self._marked

    # Views keep buffers: none may outlive what it is of.

    def resize(self, capacity: int) -> None:
        self._marked = None
        super().resize(capacity)

    def release(self) -> None:
        self._marked = None
        super().release()


class DirectCache(KVCache):
    """A KV cache of :class:`DirectLayer`; arguments as :class:`KVCache`."""

    layer_type, state_type = DirectLayer, DirectState
    state: DirectState


def layer_of(keys: Tensor) -> DirectLayer | None:
    """The layer that handed out ``keys`` whole."""
    layer: weakref.ref[DirectLayer] | None = getattr(keys, "steer_layer", None)
    return None if layer is None else layer()


def cache_of(
    model: PreTrainedModel, windows: Sequence[int | None], rows: int = 1, limit: int = 2**31
) -> KVCache:
    """A cache for passes of ``model``; other arguments as :class:`KVCache`.

    Raises:
        SteerError: as :func:`enabled`.
    """
    kind = DirectCache if enabled() and model.device.type == "cpu" else KVCache
    return kind(windows, rows, limit)
