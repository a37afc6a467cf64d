"""Contenders that take turns, and the fastest round of each."""

from __future__ import annotations

import time
from collections.abc import Callable


def fastest(
    table: dict[str, Callable], seconds: float, threads: int, *, warm: bool = False
) -> dict[str, float]:
    """Fastest round of each in seconds: CPU time on one thread, the wall clock on more.

    With `warm` each is called once more before its round, so that it finds the caches as it leaves
    them, and not as the one before it does.
    """
    clock = time.thread_time if threads == 1 else time.perf_counter
    best = dict.fromkeys(table, float("inf"))
    end, rounds = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or rounds < 5:
        for name, call in table.items():
            if warm:
                call()
            begin = clock()
            call()
            best[name] = min(best[name], clock() - begin)
        rounds += 1
    return best
