"""One engine with continuous batching.

A pass runs over all rows that decode, and over tokens of prompts up to a budget, those that came
first before the others. Rows join and leave between passes. While nobody reads a prompt, every pass
takes as long as the one before, so that all passes up to the next end of a call are one event; a
call that comes meanwhile interrupts it at the end of the pass that runs. What is reckoned is the
same as pass by pass.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

import simpy

from .blocks import BlockCache, CacheEntry
from .calls import EngineCall
from .passes import PassTime

_EDGE = 1e-9  # of a pass; where one ends, up to rounding


class Waiting:
    """A call at an engine.

    Attributes:
        call: what is asked for.
        entry: of its conversation in the engine's cache.
        done: succeeds at its end.
        read: tokens that were read for its first pass.
        first: when its first pass ended.
    """

    __slots__ = ("call", "done", "entry", "first", "left", "read")

    def __init__(self, call: EngineCall, entry: CacheEntry, done: simpy.Event) -> None:
        self.call, self.entry, self.done = call, entry, done
        self.read = self.left = 0
        self.first = 0.0


class Replica:
    """An engine of one model.

    Args:
        env: of the simulation.
        time: of a pass.
        rows: most calls that run together.
        budget: most tokens of a pass.
        cache: its prefix cache.
        device: taken for each pass, where another engine has the same one.
        weighed: is told rows, tokens and number of the passes that run.

    Attributes:
        busy: seconds in which a pass ran.
        passes, rows_run: passes, and rows summed over them.
        calls: that have ended.
        read: tokens read for the first passes of calls.
    """

    def __init__(
        self,
        env: simpy.Environment,
        time: PassTime,
        rows: int,
        budget: int,
        cache: BlockCache,
        device: simpy.Resource | None = None,
        weighed: Callable[[int, int], None] | None = None,
    ) -> None:
        self._env, self._time, self._rows, self._budget = env, time, rows, budget
        self.cache, self._device, self._weighed = cache, device, weighed
        self._queue: deque[Waiting] = deque()
        self._reading: list[Waiting] = []
        self._writing: list[tuple[int, int, Waiting]] = []  # by the pass that ends them
        self._number = 0
        self._sleep: simpy.Event | None = None
        self._jumping = False
        self._since: float | None = None  # when the passes that run now began
        self.busy = 0.0
        self.passes = self.rows_run = self.calls = self.read = 0
        self._process = env.process(self._run())

    @property
    def load(self) -> int:
        """Calls that run or wait."""
        return len(self._queue) + self._active

    @property
    def _active(self) -> int:
        return len(self._reading) + len(self._writing)

    def busy_until(self, now: float) -> float:
        """Seconds of passes until now, a running one included."""
        return self.busy + (0.0 if self._since is None else now - self._since)

    def submit(self, call: EngineCall, entry: CacheEntry) -> Waiting:
        """Ask for a call; its ``done`` tells the end."""
        asked = Waiting(call, entry, self._env.event())
        self._queue.append(asked)
        if self._sleep is not None and not self._sleep.triggered:
            self._sleep.succeed()
        elif self._jumping and self._active < self._rows:
            self._jumping = False
            self._process.interrupt()
        return asked

    def _run(self) -> Generator[Any, Any, None]:
        while True:
            self._admit()
            if not self._active:
                self._sleep = self._env.event()
                yield self._sleep
                self._sleep = None
            elif self._device is None:
                yield from self._pass() if self._reading else self._jump()
            else:
                with self._device.request() as turn:
                    yield turn
                    self._admit()
                    yield from self._pass()

    def _admit(self) -> None:
        while self._queue and self._active < self._rows:
            asked = self._queue[0]
            call = asked.call
            found = self.cache.take(asked.entry, call.context, call.held)
            if found is None:
                return
            asked.read = asked.left = call.context - found
            self.read += asked.read
            self._reading.append(self._queue.popleft())

    def _pass(self) -> Generator[Any, Any, None]:
        """One pass, over rows that decode and parts of prompts."""
        rows = tokens = len(self._writing)
        for asked in self._reading:
            part = min(asked.left, self._budget - tokens)
            if part <= 0:
                break
            asked.left -= part
            rows, tokens = rows + 1, tokens + part
        yield from self._take(self._time.seconds(rows, tokens), rows, tokens)
        self._count(1, rows)
        for asked in [a for a in self._reading if not a.left]:
            self._reading.remove(asked)
            asked.first = self._env.now
            self._number += 1
            ends = self.passes + asked.call.passes - 1
            heapq.heappush(self._writing, (ends, self._number, asked))
        self._end_calls()

    def _jump(self) -> Generator[Any, Any, None]:
        """All passes up to the next end of a call, or until one comes."""
        rows, begin = len(self._writing), self._env.now
        seconds = self._time.seconds(rows, rows)
        passes = self._writing[0][0] - self.passes
        self._since, self._jumping = begin, True
        try:
            yield self._env.timeout(passes * seconds)
        except simpy.Interrupt:
            gone = self._env.now - begin
            passes = min(passes, int(gone / seconds + 1 - _EDGE))
            yield self._env.timeout(max(0.0, passes * seconds - gone))
        self._jumping, self._since = False, None
        self.busy += passes * seconds
        self._weigh(rows, rows, passes)
        self._count(passes, rows)
        self._end_calls()

    def _take(self, seconds: float, rows: int, tokens: int) -> Generator[Any, Any, None]:
        self._since = self._env.now
        yield self._env.timeout(seconds)
        self._since = None
        self.busy += seconds
        self._weigh(rows, tokens, 1)

    def _weigh(self, rows: int, tokens: int, passes: int) -> None:
        if self._weighed is not None:
            self._weighed(tokens, passes)

    def _count(self, passes: int, rows: int) -> None:
        self.passes += passes
        self.rows_run += passes * rows

    def _end_calls(self) -> None:
        while self._writing and self._writing[0][0] <= self.passes:
            asked = heapq.heappop(self._writing)[2]
            self.cache.release(asked.entry, asked.call.held)
            self.calls += 1
            asked.done.succeed()
