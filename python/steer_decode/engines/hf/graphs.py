"""Captured passes of one lane.

Few are kept at a time, in one pool of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Key = tuple[int, ...]
MOST = 16  # sizes and widths are rounded up, so that an answer needs fewer


class Graphs:
    """CUDA graphs by what they were captured for.

    Each keeps what its pass needs between two kernels. In one pool that is the same memory for all:
    a pass begins with what the lane's buffers hold and leaves nothing behind but there, and one
    lane replays one graph at a time. The graph that was not replayed for longest makes room.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: dict[Key, torch.cuda.CUDAGraph] = {}  # the last replayed last
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def pool(self) -> Any:
        """The memory that a capture is to take."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool

    def put(self, key: Key, graph: torch.cuda.CUDAGraph) -> None:
        """Keep a graph.

        If need be, in the place of the one that was not replayed for longest.
        """
        self._kept[key] = graph
        while len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]

    def keep(self, wanted: Callable[[Key], bool]) -> None:
        """Forget all others."""
        self._kept = {key: graph for key, graph in self._kept.items() if wanted(key)}

    def replay(self, key: Key) -> None:
        """Run a pass that is kept."""
        self._kept[key] = graph = self._kept.pop(key)
        graph.replay()
