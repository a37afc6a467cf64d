"""Runs a kernel: threads of a block together, blocks one after another or in turns.

Threads that have gone different ways wait for one another where the text says so next: the lowest
basic block runs first. What a kernel may rely on is checked and not this order: see memory.py and
order.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from support.ptx import lanes
from support.ptx.access import Access
from support.ptx.faults import Fault
from support.ptx.memory import Memory, Shared
from support.ptx.order import Knower, Released
from support.ptx.parse import Kernel
from support.ptx.program import Program
from support.ptx.touched import Time

MAX_STEPS = 2_000_000  # basic blocks that a block of threads may run


class Block:
    """The threads of one block, and what they know."""

    def __init__(
        self, program: Program, number: int, grid: int, parameters: np.ndarray, memory: Memory,
        shared: int, clock: np.ndarray, released: Released,
    ) -> None:  # fmt: skip
        self.program, self.memory, self.parameters = program, memory, parameters
        count = program.kernel.threads
        self.everyone = np.arange(count)
        self.thread = np.arange(count, dtype="u4")
        self.lane = self.thread & np.uint32(31)
        self.block = np.full(count, number, "u4")
        self.threads, self.blocks = np.full(count, count, "u4"), np.full(count, grid, "u4")
        self.shared = Shared(program.kernel.shared_bytes + shared, program.unit)
        self.registers = list(program.unset)
        self.time = Time(number + 1, count, clock)
        self.knower = Knower(self.time, released)
        self.at, self.together = 0, True  # while all threads are at one basic block
        self.places, self.waiting = np.zeros(count, int), np.zeros(count, bool)
        self.ended = np.zeros(count, bool)

    # ---- flow

    def run(self) -> Iterator[None]:
        """Run to the end; yields where other blocks may run."""
        blocks, function = self.program.kernel.blocks, self.program.function
        for _ in range(MAX_STEPS):
            mask = None
            if not self.together:
                ready = ~(self.waiting | self.ended)
                if not ready.any():
                    if self.ended.all():
                        return
                    self._leave_barrier()
                    yield
                    continue
                self.at = int(self.places[ready].min())
                mask = ready & (self.places == self.at)
            if self.at >= len(blocks):
                raise Fault("endless", "threads run past the end of the text")
            ends, target = blocks[self.at].ends, blocks[self.at].target
            went = function(self.at, mask is not None)(self, self.registers, mask)
            if mask is None and ends not in ("branches", "returns"):
                self.at = target if ends == "jumps" else self.at + 1
                if ends == "waits":
                    self.knower.meet()
            else:
                self._part(ends, target, went, self._all(mask))
            if ends in ("waits", "yields"):
                yield
        raise Fault("endless", f"a block has run {MAX_STEPS} basic blocks")

    def _part(self, ends: str, target: int, went: np.ndarray | None, mask: np.ndarray) -> None:
        """Threads of `mask` go their ways; where `went` holds, that of a jump."""
        after = np.full(len(mask), target if ends == "jumps" else self.at + 1)
        if ends == "branches":
            after[went] = target
        elif ends == "waits":
            self.waiting |= mask
        elif ends == "returns":
            self.ended |= mask if went is None else went & mask
        self.places[mask] = after[mask]
        self.together = not (self.waiting.any() or self.ended.any()) and bool(
            (self.places == self.places[0]).all()
        )
        self.at = int(self.places[0])

    def _leave_barrier(self) -> None:
        """All wait that have not ended."""
        if self.ended.any():
            raise Fault("divergence", "threads wait at a barrier, and others have ended")
        if (self.places != self.places[0]).any():
            raise Fault("divergence", "threads wait at different barriers")
        self.knower.meet()
        self.waiting[:] = False
        self.at, self.together = int(self.places[0]), True

    def _all(self, mask: np.ndarray | None) -> np.ndarray:
        return np.ones(len(self.everyone), bool) if mask is None else mask

    # ---- memory

    def _select(
        self, address: np.ndarray, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if mask is None:
            return address, self.everyone
        threads = np.flatnonzero(mask)
        return address[threads], threads

    def load(self, access: Access, address: np.ndarray, mask: np.ndarray | None) -> Sequence[Any]:
        chosen, threads = self._select(address, mask)
        empty = [np.zeros(len(self.everyone), access.code) for _ in range(access.count)]
        if not threads.size:
            return empty
        if access.space == "param":
            index = chosen.astype("i8")[:, None] + np.arange(access.size * access.count)
            raw = self.parameters[index].view(access.code)
            values = [raw[:, i].copy() for i in range(access.count)]
        else:
            self.time.tick()
            values = self._where(access).load(access, chosen, threads, self.knower)
            self.knower.hear(access, chosen, threads)
        if mask is None:
            return values
        for whole, value in zip(empty, values, strict=True):
            whole[threads] = value
        return empty

    def store(
        self, access: Access, address: np.ndarray, values: Sequence[np.ndarray],
        mask: np.ndarray | None,
    ) -> None:  # fmt: skip
        chosen, threads = self._select(address, mask)
        if not threads.size:
            return
        self.time.tick()
        if mask is not None:
            values = [value[threads] for value in values]
        self._where(access).store(access, chosen, values, threads, self.knower)
        if access.space != "shared":
            self.knower.released.forget(chosen)
            if access.strong:
                for where, thread in zip(chosen.tolist(), threads.tolist(), strict=True):
                    self.knower.tell(access, where, thread)

    def _where(self, access: Access) -> Memory | Shared:
        if access.space == "shared":
            return self.shared
        if access.space not in ("global", "generic"):
            raise Fault("unknown", f"the memory of `{access.text}`")
        return self.memory

    def atomic(
        self, access: Access, address: np.ndarray, values: Sequence[np.ndarray],
        mask: np.ndarray | None,
    ) -> np.ndarray:  # fmt: skip
        chosen, threads = self._select(address, mask)
        result = np.zeros(len(self.everyone), access.code)
        memory = self._where(access)
        for where, thread in zip(chosen, threads, strict=True):
            self.time.tick()
            one, who = np.array([where]), np.array([thread])
            self.knower.hear(access, one, who)
            (old,) = memory.load(access, one, who, self.knower)
            given = [value[thread : thread + 1] for value in values]
            memory.store(access, one, [_acted(access, old, given)], who, self.knower)
            if access.space != "shared":
                self.knower.tell(access, int(where), int(thread))
            result[thread] = old[0]
        return result

    def fence(self, scope: str, mask: np.ndarray | None) -> None:
        self.knower.fence(scope, self.everyone if mask is None else np.flatnonzero(mask))

    def warp_barrier(self, members: np.ndarray, mask: np.ndarray | None) -> None:
        lanes.take_part(members, mask)
        for warp in np.flatnonzero(self._all(mask).reshape(-1, 32).all(1)).tolist():
            self.knower.meet_in_warp(warp)  # of a part of a warp it is not told: that orders less
        self.time.tick()


def _acted(access: Access, old: np.ndarray, given: Sequence[np.ndarray]) -> np.ndarray:
    if access.action == "exch":
        return given[0]
    if access.action == "cas":
        return np.where(old == given[0], given[1], old)
    act = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and,
           "or": np.bitwise_or, "xor": np.bitwise_xor}[access.action]  # fmt: skip
    return act(old, given[0])


# ---- a launch ------------------------------------------------------------------------------------


def packed(kernel: Kernel, arguments: Sequence[int | float | bytes]) -> np.ndarray:
    """Arguments as the bytes of a kernel's parameters."""
    if len(arguments) != len(kernel.parameters):
        raise ValueError(f"{len(arguments)} arguments for {len(kernel.parameters)} parameters")
    size = max((p.offset + p.size for p in kernel.parameters), default=0)
    whole = np.zeros(size + 16, "u1")
    for parameter, value in zip(kernel.parameters, arguments, strict=True):
        if isinstance(value, bytes):
            raw = value
        elif parameter.kind[0] == "f" or isinstance(value, float):
            raw = np.array(value, f"f{parameter.size}").tobytes()
        else:
            raw = (value % (1 << 8 * parameter.size)).to_bytes(parameter.size, "little")
        if len(raw) != parameter.size:
            raise ValueError(f"{len(raw)} bytes for {parameter}")
        whole[parameter.offset : parameter.offset + parameter.size] = np.frombuffer(raw, "u1")
    return whole


def launch(
    program: Program, grid: int, arguments: Sequence[int | float | bytes], memory: Memory,
    shared: int = 0, seed: int = 0,
) -> None:  # fmt: skip
    """Run all blocks, in turns that `seed` decides.

    Args:
        arguments: numbers, addresses of buffers of `memory`, or the bytes of a struct.
        shared: bytes of dynamic shared memory.
    """
    parameters = packed(program.kernel, arguments)
    clock, released = np.ones(1, "i8"), Released()
    turns = random.Random(seed)
    with np.errstate(all="ignore"):
        live = [Block(program, number, grid, parameters, memory, shared, clock, released).run()
                for number in range(grid)]  # fmt: skip
        while live:
            at = turns.randrange(len(live))
            for _ in range(turns.choice((1, 3, 30, 1000))):
                if next(live[at], live) is live:
                    del live[at]
                    break
