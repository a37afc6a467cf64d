"""What the threads of a warp do together; arrays are over all threads of a block."""

from __future__ import annotations

import numpy as np
from support.ptx.faults import Fault

ALL = 0xFFFFFFFF
_BITS = np.uint64(1) << np.arange(32, dtype="u8")
_ACTIONS = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and,
            "or": np.bitwise_or, "xor": np.bitwise_xor}  # fmt: skip


def ballot(of: np.ndarray) -> np.ndarray:
    """In each thread the bits of its warp."""
    return np.repeat((of.reshape(-1, 32) * _BITS).sum(1).astype("u4"), 32)


def take_part(members: np.ndarray, mask: np.ndarray | None) -> None:
    """Refuse an instruction that names a lane that does not take part in it."""
    if mask is not None and ((members & ~ballot(mask)) != 0)[mask].any():
        raise Fault("divergence", "a lane is named that does not take part")


def source_lanes(
    mode: str, by: np.ndarray, clamp: np.ndarray, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """The thread whose value each gets from `shfl`, and whether that is another's place."""
    everyone = np.arange(threads)
    lane, by, c = everyone & 31, by.astype("i8") & 31, clamp.astype("i8")
    segment, bound = (c >> 8) & 31, c & 31
    least = lane & segment
    most = least | (bound & ~segment)
    to = {"up": lane - by, "down": lane + by, "bfly": lane ^ by, "idx": least | (by & ~segment)}
    inside = to[mode] >= most if mode == "up" else to[mode] <= most
    return everyone - lane + np.where(inside, to[mode], lane), inside


def matrix_lanes(number: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """The thread that has the address of a thread's row of a matrix, and the bytes from there."""
    everyone = np.arange(threads)
    lane = everyone & 31
    return everyone - lane + 8 * number + lane // 4, (lane % 4 * 4).astype("u8")


def reduce(
    action: str, value: np.ndarray, members: np.ndarray, mask: np.ndarray | None
) -> np.ndarray:
    """`redux.sync` of whole warps."""
    take_part(members, mask)
    if (members[slice(None) if mask is None else mask] != ALL).any():
        raise Fault("unknown", "redux.sync of a part of a warp")
    return np.repeat(_ACTIONS[action].reduce(value.reshape(-1, 32), 1, dtype=value.dtype), 32)


def vote(
    action: str, value: np.ndarray, members: np.ndarray, mask: np.ndarray | None
) -> np.ndarray:
    """`vote.sync`: a ballot's bits, or a predicate."""
    take_part(members, mask)
    if action == "ballot":
        return ballot(value if mask is None else value & mask) & members
    bits = ballot(value) & members
    if action == "uni":
        return (bits == 0) | (bits == members)
    return bits == members if action == "all" else bits != 0
