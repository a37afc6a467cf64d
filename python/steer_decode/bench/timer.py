"""Contenders in turns, and the median time of each.

Other work on the machine, and a clock that slows as a chip warms, then weigh on all of them alike.
A sample is as many calls as fill a good 200 microseconds, so that reading the clock costs nothing;
one more goes first, or the caches would be as the contender before left them.

On a GPU the clock is CUDA events, and a kernel that only waits goes first: the host queues a whole
sample behind it, so what is timed is the device and not how fast the host can launch. With a cold
L2 every call is timed alone, after a write to a buffer larger than the cache.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping

import torch

Call = Callable[[], object]

FILL_SECONDS = 200e-6
MAX_REPEATS = 512  # step_update_ has room for as many tokens between two resets
WARM_SECONDS = 20e-3  # inputs of longer calls are larger than any cache
MAX_ROUNDS, LEAST_ROUNDS = 1000, 3
L2_BUFFER_BYTES = 256 << 20  # several times the L2 of any card there is
CYCLES_PER_SECOND = 2e9  # at least a GPU's clock: a wait that is too long does no harm


def medians(
    calls: Mapping[str, Call],
    seconds: float,
    *,
    reset: Call | None = None,
    device: str = "cpu",
    cold_l2: bool = False,
) -> dict[str, float]:
    """Median microseconds of one call of each contender.

    Args:
        calls: the contenders, by name; each has been called before, so that it is compiled.
        seconds: how long to go on. Three rounds are made even if they take longer, but no more
            than one once three times as long has passed.
        reset: brings the inputs back to where they were; before every sample, not timed.
        device: "cpu" or "cuda".
        cold_l2: on CUDA, empty the L2 cache before every call.
    """
    cuda = device == "cuda"
    sample = _CudaSample(cold_l2) if cuda else _cpu_sample
    times: dict[str, list[float]] = {}
    repeats, warm = {}, {}
    end = time.perf_counter() + seconds
    for name, call in calls.items():
        if reset:
            reset()
        estimate = max(_cpu_sample(_synchronised(call) if cuda else call, 1), 1e-7)
        short = estimate < WARM_SECONDS
        warm[name] = short and not cold_l2
        repeats[name] = min(MAX_REPEATS, max(1, math.ceil(FILL_SECONDS / estimate)))
        times[name] = [] if short or cuda else [estimate]  # one call is a sample then
    for rounds in range(MAX_ROUNDS):
        late = time.perf_counter() - end
        if (rounds >= LEAST_ROUNDS and late >= 0) or (rounds >= 1 and late >= 2 * seconds):
            break
        for name, call in calls.items():
            if reset:
                reset()
            if warm[name]:
                call()
            times[name].append(sample(call, repeats[name]))
    return {name: 1e6 * statistics.median(values) for name, values in times.items()}


def _cpu_sample(call: Call, repeats: int) -> float:
    """Seconds a call, over one sample."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _synchronised(call: Call) -> Call:
    def run() -> None:
        call()
        torch.cuda.synchronize()

    return run


class _CudaSample:
    def __init__(self, cold_l2: bool) -> None:
        self._flush = (
            torch.empty(L2_BUFFER_BYTES, dtype=torch.uint8, device="cuda") if cold_l2 else None
        )

    def __call__(self, call: Call, repeats: int) -> float:
        # Twice what the host took for one call, for each of them, and never under a millisecond.
        start = time.perf_counter()
        call()
        queueing = 2 * repeats * (time.perf_counter() - start)
        torch.cuda.synchronize()
        torch.cuda._sleep(int(CYCLES_PER_SECOND * min(0.2, max(1e-3, queueing))))
        if self._flush is None:
            return self._in_a_row(call, repeats)
        return self._cold(call, min(repeats, 20))

    @staticmethod
    def _in_a_row(call: Call, repeats: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) * 1e-3 / repeats

    def _cold(self, call: Call, repeats: int) -> float:
        assert self._flush is not None
        pairs = []
        for _ in range(repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._flush.zero_()
            begin.record()
            call()
            end.record()
            pairs.append((begin, end))
        torch.cuda.synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in pairs) * 1e-3
