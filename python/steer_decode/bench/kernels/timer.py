"""Contenders in turns, and the median time of each.

Other work on the machine, and a clock that slows as a chip warms, then weigh on all of them alike.
A sample is as many calls as fill a good 200 microseconds, so that reading the clock costs nothing;
one more goes first, or the caches would be as the contender before left them.

On a GPU there are three clocks:

events  CUDA events around a call or several. A kernel that only waits goes first: the host queues a
        whole sample behind it, so what is timed is the device and not how fast the host can launch.
        With a cold L2 every call is timed alone, after a write to a buffer larger than the cache.
graph   a CUDA graph that holds many calls, replayed between two events; the time of one call in it.
        With a cold L2 the write goes before each replay, and the calls should take turns at inputs.
wall    the host's clock around a call and the synchronisation after it: what eager code waits for.
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
GRAPH_CALLS = 20


class NotCapturable(Exception):
    """A call cannot be part of a CUDA graph.

    The message is the reason.
    """


def medians(
    calls: Mapping[str, Call],
    seconds: float,
    *,
    reset: Call | None = None,
    device: str = "cpu",
    cold_l2: bool = False,
    clock: str = "events",
    left_out: Callable[[str, str], None] = lambda name, reason: None,
) -> dict[str, float]:
    """Median microseconds of one call of each contender.

    Args:
        calls: the contenders, by name; each has been called before, so that it is compiled.
        seconds: how long to go on. Three rounds are made even if they take longer, but no more
            than one once three times as long has passed.
        reset: brings the inputs back to where they were; before every sample, not timed.
        device: "cpu" or "cuda".
        cold_l2: on CUDA, empty the L2 cache before every call, or every replay.
        clock: on CUDA, "events", "graph" or "wall".
        left_out: told the name of each contender but the first that cannot be captured, and why.

    Raises:
        NotCapturable: the clock is "graph", and the first contender cannot be captured.
    """
    cuda = device == "cuda"
    sample, calls = _cpu_sample, dict(calls)
    if cuda:
        sample = _CudaSample(cold_l2, clock)
        if clock == "graph":
            calls = _graphs(calls, reset, left_out)
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
    """Seconds a call, over one sample by one of the three clocks."""

    def __init__(self, cold_l2: bool, clock: str = "events") -> None:
        self._clock = clock
        self._flush = (
            torch.empty(L2_BUFFER_BYTES, dtype=torch.uint8, device="cuda") if cold_l2 else None
        )

    def __call__(self, call: Call, repeats: int) -> float:
        if self._clock == "wall":
            return self._wall(call, min(repeats, 20))
        if self._clock == "graph":
            self._wait(1e-3)
            return self._cold(call, 1) / GRAPH_CALLS
        # Twice what the host took for one call, for each of them, and never under a millisecond.
        start = time.perf_counter()
        call()
        queueing = 2 * repeats * (time.perf_counter() - start)
        torch.cuda.synchronize()
        self._wait(min(0.2, max(1e-3, queueing)))
        if self._flush is None:
            return self._in_a_row(call, repeats)
        return self._cold(call, min(repeats, 20))

    @staticmethod
    def _wait(seconds: float) -> None:
        """Keeps the device busy, so that what follows is queued before it begins."""
        torch.cuda._sleep(int(CYCLES_PER_SECOND * seconds))

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
        pairs = []
        for _ in range(repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            if self._flush is not None:
                self._flush.zero_()
            begin.record()
            call()
            end.record()
            pairs.append((begin, end))
        torch.cuda.synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in pairs) * 1e-3

    def _wall(self, call: Call, repeats: int) -> float:
        times = []
        for _ in range(repeats):
            if self._flush is not None:
                self._flush.zero_()
            torch.cuda.synchronize()
            times.append(_cpu_sample(_synchronised(call), 1))
        return statistics.median(times)


def _graphs(
    calls: Mapping[str, Call], reset: Call | None, left_out: Callable[[str, str], None]
) -> dict[str, Call]:
    """Replays in place of calls, each of a graph of `GRAPH_CALLS` of them."""
    found: dict[str, Call] = {}
    for place, (name, call) in enumerate(calls.items()):
        if reset:
            reset()
        try:
            found[name] = captured(call, GRAPH_CALLS).replay
        except NotCapturable as error:
            if place == 0:
                raise
            left_out(name, str(error))
    return found


def captured(call: Call, calls: int) -> torch.cuda.CUDAGraph:
    """A graph of several calls in a row.

    `call` has run before, so that it is compiled. A capture that fails may spoil the next one, so
    it is found out before whether the call reads on the host, which no capture allows.

    Raises:
        NotCapturable: it does.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        except RuntimeError as error:
            raise NotCapturable(str(error).strip().partition("\n")[0]) from error
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return graph
