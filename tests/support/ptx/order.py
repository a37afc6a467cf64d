"""What is known to have happened, after PTX's memory model.

Two accesses of one byte, one of them a write, must be in order, unless both are strong (atomics,
relaxed, volatile). Inside a block a barrier orders them (or a warp's own); across blocks, and where
warps of a block meet at no barrier, only a release by one side that an acquire by the other has
read: an atomic or store with release, or with a fence before it, and an atomic or load with
acquire, or with a fence after it. Barriers and releases add up, so a thread may release what others
of its block wrote before a barrier.

Of several readers of a byte the last block's alone is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from support.ptx.access import Access
from support.ptx.touched import Time, Touched

FAR = ("gpu", "sys")  # scopes that reach another block


@dataclass
class Knowledge:
    """What has happened: of blocks all before an epoch, of threads all up to a stamp."""

    epochs: dict[int, int] = field(default_factory=dict)
    stamps: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, other: Knowledge) -> None:
        for block, epoch in other.epochs.items():
            self.epochs[block] = max(self.epochs.get(block, 0), epoch)
        for thread, stamp in other.stamps.items():
            self.stamps[thread] = max(self.stamps.get(thread, 0), stamp)

    def copy(self) -> Knowledge:
        return Knowledge(dict(self.epochs), dict(self.stamps))

    def holds(self, thread: tuple[int, int], epoch: int, stamp: int) -> bool:
        """Whether an access of a block's thread is among it."""
        return self.epochs.get(thread[0], 0) > epoch or self.stamps.get(thread, 0) >= stamp


class Released:
    """What strong writes of a launch have made known, by address."""

    def __init__(self) -> None:
        self.by_address: dict[int, Knowledge] = {}

    def forget(self, addresses: np.ndarray) -> None:
        """A write that tells nothing ends what was told before."""
        if self.by_address:
            for address in addresses.tolist():
                self.by_address.pop(address, None)


class Knower:
    """What the threads of one block know of others."""

    def __init__(self, time: Time, released: Released) -> None:
        self.time, self.released = time, released
        self.known = Knowledge()  # by all threads
        self.more: dict[int, Knowledge] = {}  # by single threads, since the last barrier
        self.fenced: dict[int, Knowledge] = {}  # what a fence made ready to be released
        self.heard: dict[int, Knowledge] = {}  # what waits for a fence to be acquired

    def meet(self) -> None:
        """At a barrier all learn what each knows."""
        self.time.meet()
        for one in self.more.values():
            self.known.add(one)
        self.more.clear()

    def meet_in_warp(self, warp: int) -> None:
        self.time.warp_epoch[warp] += 1
        together = Knowledge()
        lanes = range(32 * warp, 32 * warp + 32)
        for thread in lanes:
            together.stamps[(self.time.block, thread)] = self.time.now
            together.add(self.more.get(thread, Knowledge()))
        for thread in lanes:
            self.more[thread] = together.copy()

    def everything(self, thread: int) -> Knowledge:
        """What a thread knows, and has done itself."""
        found = self.known.copy()
        found.epochs[self.time.block] = self.time.epoch
        if thread in self.more:
            found.add(self.more[thread])
        found.stamps[(self.time.block, thread)] = self.time.now
        return found

    def tell(self, access: Access, address: int, thread: int) -> None:
        """Release with a strong write what a thread knows, or what its fence did."""
        if access.scope not in FAR:
            return
        if access.order in ("release", "acq_rel"):
            said: Knowledge | None = self.everything(thread)
        else:
            said = self.fenced.get(thread)
        if said is not None:
            self.released.by_address.setdefault(address, Knowledge()).add(said)

    def hear(self, access: Access, addresses: np.ndarray, threads: np.ndarray) -> None:
        """Learn what an address tells: at once by an acquire, else with the next fence."""
        if access.scope not in FAR or not access.strong:
            return
        to = self.more if access.order in ("acquire", "acq_rel") else self.heard
        for address, thread in zip(addresses.tolist(), threads.tolist(), strict=True):
            if said := self.released.by_address.get(address):
                to.setdefault(thread, Knowledge()).add(said)

    def fence(self, scope: str, threads: np.ndarray) -> None:
        if scope not in FAR:
            return
        for thread in threads.tolist():
            if heard := self.heard.pop(thread, None):
                self.more.setdefault(thread, Knowledge()).add(heard)
            self.fenced[thread] = self.everything(thread)

    def _acquired(
        self, touched: Touched, bad: np.ndarray, at: np.ndarray, threads: np.ndarray
    ) -> bool:
        """Whether an acquire orders what no barrier of the block does; of one toucher a byte."""
        for lane, byte in np.argwhere(bad):
            where = at[lane, byte]
            more = self.more.get(int(threads[lane]))
            one = not (touched.several[where] or touched.warps[where])
            of = int(touched.block[where]), int(touched.thread[where])
            then = int(touched.epoch[where]), int(touched.stamp[where])
            if more is None or not one or not more.holds(of, *then):
                return False
        return True

    def check(
        self, touched: Touched, at: np.ndarray, threads: np.ndarray, access: Access, what: str
    ) -> None:
        """Refuse an access of bytes [n, size] that an earlier one is not known to precede."""
        number = touched.block[at]
        if not number.any():
            return
        strong = touched.strong[at] & access.strong
        bad = touched.unordered(at, threads, self.time) & ~strong
        if bad.any() and not self._acquired(touched, bad, at, threads):
            raise touched.fault("race", what, "without a barrier between", bad, at, threads, access)
        far = (number > 0) & (number != self.time.block) & ~strong
        if not far.any():
            return
        epochs = np.zeros(int(number.max()) + 1, int)
        for block, epoch in self.known.epochs.items():
            if block < len(epochs):
                epochs[block] = epoch
        far &= touched.epoch[at] >= epochs[number]
        for lane, byte in np.argwhere(far):
            where = at[lane, byte]
            thread = int(touched.block[where]), int(touched.thread[where])
            then = int(touched.epoch[where]), int(touched.stamp[where])
            more = self.more.get(int(threads[lane]))
            if not (self.known.holds(thread, *then) or (more and more.holds(thread, *then))):
                far[:] = False
                far[lane, byte] = True
                raise touched.fault("order", what, "with no release and acquire between", far, at,
                                    threads, access)  # fmt: skip
