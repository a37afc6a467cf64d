"""How many tokens of a prompt one pass reads.

So few that its activations stay small beside the rest. A pass keeps many times more for each of its
tokens than the cache does. Weights and the caches of all that was written have to fit anyway; what
passes need for a moment is held to a small share of that. Keys and values that are yet to be
written leave room of their own: the first parts of a prompt may be long, the last ones are shorter.
"""

from __future__ import annotations

from ...core.shape import ModelShape
from .cache import KVCache

PART = (512, 2048)  # longest part of a prompt that one pass reads, on a CPU and on a GPU
SHORT = 64  # a hand-over of so many tokens or fewer is one pass, and no part is below a quarter
SHARE = 0.02  # of weights and caches that activations may add to them


class Budget:
    """What two models that answer together may hold.

    In bytes; both are on one device. Lanes join it with their caches; no cache refers to a lane, so
    all go with the answer.
    """

    def __init__(self) -> None:
        self._weights: dict[int, int] = {}  # by the id of the model, which may serve both sides
        self._caches: list[tuple[ModelShape, KVCache]] = []

    def join(self, model: object, shape: ModelShape, cache: KVCache) -> None:
        """Count the weights of a model, and its cache."""
        self._weights[id(model)] = shape.held_bytes
        self._caches.append((shape, cache))

    def room(self, longest: int) -> float:
        """Bytes that activations may take.

        That is while rows of up to ``longest`` tokens are read. A share of the weights and of the
        caches of so many tokens, and what these caches do not take yet.
        """
        full = unwritten = 0
        for shape, cache in self._caches:
            full += shape.cache_bytes(cache.rows * longest)
            unwritten += shape.cache_bytes(sum(max(0, longest - held) for held in cache.touched))
        return SHARE * (sum(self._weights.values()) + full) + unwritten

    def tokens(self, shape: ModelShape, cache: KVCache, longest: int) -> int:
        """Tokens that one pass of a model may read.

        It is at least a quarter of ``SHORT``.
        """
        each = shape.activation_bytes + shape.cache_bytes(cache.rows)
        return max(SHORT // 4, int(self.room(longest) // each))
