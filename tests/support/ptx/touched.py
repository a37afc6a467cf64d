"""Who touched each byte last, and at what time."""

from __future__ import annotations

import numpy as np
from support.ptx.access import Access
from support.ptx.faults import Fault


class Time:
    """The time of one block: barriers it has passed, and accesses of all blocks.

    Args:
        block: its number, from 1 on; 0 is nobody.
        clock: one number [1], of all blocks of a launch.
    """

    def __init__(self, block: int, threads: int, clock: np.ndarray) -> None:
        self.block, self.clock = block, clock
        self.epoch = 1
        self.warp_epoch = np.ones(-(-threads // 32), "i4")

    @property
    def now(self) -> int:
        return int(self.clock[0])

    def tick(self) -> None:
        self.clock[0] += 1

    def meet(self) -> None:
        self.epoch += 1
        self.warp_epoch += 1
        self.tick()


class Touched:
    """Of each byte (or unit) the last access of one kind."""

    def __init__(self, size: int) -> None:
        self.block = np.zeros(size, "i4")
        self.thread = np.zeros(size, "i4")
        self.epoch = np.zeros(size, "i4")
        self.warp_epoch = np.zeros(size, "i4")
        self.stamp = np.zeros(size, "i8")
        self.strong = np.zeros(size, bool)
        self.several = np.zeros(size, bool)  # threads of one warp since its barrier
        self.warps = np.zeros(size, bool)  # of more than one warp since the block's barrier

    def note(self, at: np.ndarray, threads: np.ndarray, time: Time, strong: bool) -> None:
        """Record an access of bytes `at` [n, size] by `threads` [n]."""
        who = np.broadcast_to(threads[:, None], at.shape)
        self.block[at] = time.block
        self.thread[at] = who
        self.epoch[at] = time.epoch
        self.warp_epoch[at] = time.warp_epoch[who >> 5]
        self.stamp[at] = time.now
        self.strong[at] = strong
        self.several[at] = self.warps[at] = False

    def note_readers(self, at: np.ndarray, threads: np.ndarray, time: Time, strong: bool) -> None:
        """As `note`, and keep in mind that there were others."""
        who = np.broadcast_to(threads[:, None], at.shape)
        warp, old = who >> 5, self.thread[at]
        same = (self.epoch[at] == time.epoch) & (self.block[at] == time.block)
        peers = same & (old >> 5 == warp) & (self.warp_epoch[at] == time.warp_epoch[warp])
        several = peers & ((old != who) | self.several[at])
        warps = same & ((old >> 5 != warp) | self.warps[at])
        self.note(at, threads, time, strong)
        self.several[at], self.warps[at] = several, warps
        last = self.thread[at]
        if (other := last != who).any():  # one instruction, several readers of a byte
            self.several[at[other]] = True
            self.warps[at[other & (last >> 5 != warp)]] = True

    def unordered(self, at: np.ndarray, threads: np.ndarray, time: Time) -> np.ndarray:
        """Where an access by `threads` of this block lacks a barrier before it, [n, size]."""
        who = np.broadcast_to(threads[:, None], at.shape)
        recent = (self.epoch[at] == time.epoch) & (self.block[at] == time.block)
        if not recent.any():
            return recent
        old = self.thread[at]
        later = self.warp_epoch[at] >= time.warp_epoch[who >> 5]
        apart = (old >> 5 != who >> 5) | self.warps[at]
        return recent & (apart | (((old != who) | self.several[at]) & later))

    def fault(
        self, kind: str, what: str, why: str, bad: np.ndarray, at: np.ndarray,
        threads: np.ndarray, access: Access,
    ) -> Fault:  # fmt: skip
        """What is to be said of the first bad byte."""
        lane, byte = np.argwhere(bad)[0]
        where = at[lane, byte]
        return Fault(kind, f"thread {threads[lane]} {what} thread {self.thread[where]} of block "
                     f"{self.block[where] - 1} touches, {why}: {access.text}")  # fmt: skip
