"""The memory of a launch, and who touched each byte of it.

Global memory is one array with wide gaps between the buffers: an address outside all of them is a
fault, as is one that is not aligned, and a byte that was never written. Who touched what, and
whether that was in order, is asked of `order.Clocks` across blocks; inside a block a barrier has to
lie between.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from support.ptx.access import Access
from support.ptx.faults import Fault
from support.ptx.order import Knower
from support.ptx.touched import Touched

BASE = 1 << 33  # address of the first byte: no int32 holds a pointer
GAP = 1 << 16
ALIGNMENT = 256  # as a CUDA allocator has it
_CODES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


class Buffer:
    """Bytes that a kernel is given.

    Args:
        data: contiguous; the kernel works on a copy, which `Memory.give_back` brings back.
        name: for what is said of a fault.
        readonly: that the kernel only reads it; a store is a fault.
        known: which bytes have a value; all of them where it is None.
    """

    def __init__(
        self, data: np.ndarray, name: str, readonly: bool = False, known: np.ndarray | None = None
    ) -> None:
        self.bytes = data.reshape(-1).view("u1")
        self.name, self.readonly = name, readonly
        self.known = known if known is not None else np.ones(self.bytes.size, bool)
        self.address = 0


class Shared:
    """Shared memory of a block, in units of the smallest access that the kernel makes."""

    def __init__(self, size: int, unit: int) -> None:
        self.size, self.unit = size, unit
        self.bytes = np.zeros(-(-size // 16) * 16, "u1")
        self.views = {code: self.bytes.view(code) for code in _CODES}
        self.known = np.zeros(self.bytes.size // unit, bool)
        self.written, self.read = Touched(self.known.size), Touched(self.known.size)

    def places(self, access: Access, address: np.ndarray) -> np.ndarray:
        """Units [n, units] that threads touch."""
        whole = access.size * access.count
        if (address > np.uint64(max(self.size - whole, 0))).any() or whole > self.size:
            worst = int(address.max())
            raise Fault("bounds", f"shared bytes {worst} to {worst + whole} of {self.size}: "
                        f"{access.text}")  # fmt: skip
        if (address & np.uint64(whole - 1)).any():
            raise Fault("alignment", f"{access.text}")
        first = (address.astype("i8") // self.unit)[:, None]
        return first + np.arange(whole // self.unit)

    def load(
        self, access: Access, address: np.ndarray, threads: np.ndarray, knower: Knower
    ) -> list[np.ndarray]:
        at = self.places(access, address)
        if not self.known[at].all():
            raise Fault("uninitialised", f"shared bytes that nobody wrote: {access.text}")
        knower.check(self.written, at, threads, access, "reads what")
        self.read.note_readers(at, threads, knower.time, access.strong)
        index = address.astype("i8") // access.size
        return [self.views[access.code][index + i] for i in range(access.count)]

    def store(
        self, access: Access, address: np.ndarray, values: Iterable[np.ndarray],
        threads: np.ndarray, knower: Knower,
    ) -> None:  # fmt: skip
        at = self.places(access, address)
        claim(self, access, at, threads, knower)
        write(self, access, at, address.astype("i8") // access.size, values, threads)


def claim(
    memory: Shared | Memory, access: Access, at: np.ndarray, threads: np.ndarray, knower: Knower
) -> None:
    """Record a write of bytes `at` [n, size], refuse one that is not in order."""
    knower.check(memory.written, at, threads, access, "writes what")
    knower.check(memory.read, at, threads, access, "writes before what")
    memory.written.note(at, threads, knower.time, access.strong)
    memory.known[at] = True


def write(
    memory: Shared | Memory, access: Access, at: np.ndarray, index: np.ndarray,
    values: Iterable[np.ndarray], threads: np.ndarray,
) -> None:  # fmt: skip
    """Store elements; threads may store the same value at one place in one instruction.

    Compilers let all that hold a copy of a value do so. Others then need a barrier to read it.
    """
    agree = np.ones(len(index), bool)
    view = memory.views[access.code]
    for i, value in enumerate(values):
        value = value.view(access.code)
        view[index + i] = value
        agree &= view[index + i] == value
    last = memory.written.thread[at]
    if (other := last != threads[:, None]).any():
        if (bad := other & ~agree[:, None]).any():
            raise memory.written.fault("race", "writes what", "in one instruction", bad, at,
                                       threads, access)  # fmt: skip
        memory.written.several[at[other]] = True
        memory.written.warps[at[other & (last >> 5 != threads[:, None] >> 5)]] = True


class Memory:
    """Global memory of a launch."""

    def __init__(self, buffers: Iterable[Buffer]) -> None:
        self.buffers = list(buffers)
        end = GAP
        for buffer in self.buffers:
            buffer.address = BASE + end
            end += -(-buffer.bytes.size // ALIGNMENT) * ALIGNMENT + GAP
        self.bytes = np.zeros(end, "u1")
        self.views = {code: self.bytes.view(code) for code in _CODES}
        self.owner = np.zeros(end, "u2")  # of each byte, from 1 on
        self.known = np.zeros(end, bool)
        self.tracked = np.zeros(len(self.buffers) + 1, bool)  # buffers that a kernel may write
        for i, buffer in enumerate(self.buffers, 1):
            part = slice(buffer.address - BASE, buffer.address - BASE + buffer.bytes.size)
            self.bytes[part], self.known[part], self.owner[part] = buffer.bytes, buffer.known, i
            self.tracked[i] = not (buffer.readonly and buffer.known.all())
        self.written, self.read = Touched(end), Touched(end)

    def give_back(self) -> None:
        """Bring what the kernel wrote to where the buffers came from."""
        for buffer in self.buffers:
            start = buffer.address - BASE
            part = slice(start, start + buffer.bytes.size)
            if not buffer.readonly:
                buffer.bytes[:] = self.bytes[part]
                buffer.known[:] = self.known[part]

    def places(self, access: Access, address: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Offsets [n] that threads touch, and whose they are."""
        whole = access.size * access.count
        offset = (address - np.uint64(BASE)).view("i8")
        try:
            owner = self.owner[offset]
            last = self.owner[offset + (whole - 1)]
            sound = bool(owner.all() and last.all() and offset.min() >= 0)
        except IndexError:
            sound = False
        if not sound:
            raise self._outside(access, address, whole)
        if (offset & (whole - 1)).any():
            raise Fault("alignment", access.text)
        return offset, owner

    def _outside(self, access: Access, address: np.ndarray, whole: int) -> Fault:
        for a in address.tolist():
            near = min(self.buffers, key=lambda b: max(b.address - a, a - b.address - b.bytes.size))
            first = a - near.address
            if not 0 <= first <= near.bytes.size - whole:
                break
        return Fault("bounds", f"bytes {first} to {first + whole} of {near.name}, which has "
                     f"{near.bytes.size}: {access.text}")  # fmt: skip

    def _every(self, access: Access, offset: np.ndarray) -> np.ndarray:
        return offset[:, None] + np.arange(access.size * access.count)

    def load(
        self, access: Access, address: np.ndarray, threads: np.ndarray, knower: Knower
    ) -> list[np.ndarray]:
        offset, owner = self.places(access, address)
        if self.tracked[owner].any():
            at = self._every(access, offset)
            if not self.known[at].all():
                raise Fault("uninitialised", f"{self._names(owner)} holds bytes that nobody wrote: "
                            f"{access.text}")  # fmt: skip
            knower.check(self.written, at, threads, access, "reads what")
            self._not_stale(access, at, knower)
            self.read.note_readers(at, threads, knower.time, access.strong)
        index = offset // access.size
        return [self.views[access.code][index + i] for i in range(access.count)]

    def _not_stale(self, access: Access, at: np.ndarray, knower: Knower) -> None:
        """Refuse a load that L1 may serve from before another block's store."""
        others = (self.written.block[at] != knower.time.block) & (self.written.block[at] > 0)
        if access.cache == "nc" and self.written.block[at].any():
            raise Fault("stale", f"what this launch writes is read as a constant: {access.text}")
        if others.any() and not access.strong and access.cache not in ("cg", "cv"):
            raise Fault("stale", f"L1 may hold what another block overwrote: {access.text}")

    def store(
        self, access: Access, address: np.ndarray, values: Iterable[np.ndarray],
        threads: np.ndarray, knower: Knower,
    ) -> None:  # fmt: skip
        offset, owner = self.places(access, address)
        if any(self.buffers[i - 1].readonly for i in np.unique(owner)):
            raise Fault("readonly", f"{self._names(owner)} is an input: {access.text}")
        at = self._every(access, offset)
        claim(self, access, at, threads, knower)
        write(self, access, at, offset // access.size, values, threads)

    def _names(self, owner: np.ndarray) -> str:
        return ", ".join(self.buffers[i - 1].name for i in np.unique(owner) if i)
