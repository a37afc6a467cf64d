"""What one forward pass writes, reads and masks.

It writes to the cache and reads from it; a mask is for uneven rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 128  # positions that a cache grows by, or a multiple of it


class Run(NamedTuple):
    """Neighbouring rows of a packed pass, with equal counts.

    They have equally many new tokens.

    Fields:
        rows: which of the rows that the pass runs over.
        tokens: which of its tokens; those of a row follow one another.
        each: tokens of each row.
        starts: int64 [n], position of the first of them.
        marks: the same numbers, as the host knows them.
    """

    rows: slice
    tokens: slice
    each: int
    starts: Tensor
    marks: list[int]


class Span(NamedTuple):
    """What the next forward pass writes and reads.

    Fields:
        first, size: the places in the buffer that it runs over, ``first .. first + size - 1``.
        start: length of the longest of them before the pass.
        width: positions that attention reads; start and width are the same for all layers.
        ragged: the rows differ in length or in new tokens, and a mask says what each may read.
        rows, starts, counts: int64 tensors [size], as ``kv_append_`` takes them; for each token of
            a packed pass.
        runs: of a packed pass, whose rows have their tokens one after another; else none.
    """

    first: int
    size: int
    start: int
    width: int
    ragged: bool
    rows: Tensor
    starts: Tensor
    counts: Tensor
    runs: tuple[Run, ...] = ()


class CacheState:
    """What a cache and its layers both know.

    The layers know nothing else of the cache.

    Attributes:
        rows: texts that there is room for.
        capacity: positions that the buffers hold now.
        made: buffers so far; another number says that some lie elsewhere now.
        layers: how many there are.
        span: of the forward pass under way, or of the last one.
        ends_early: the pass is broken off once all layers are written.
        written: layers of such a pass that are.
    """

    def __init__(self, rows: int, layers: int) -> None:
        nothing = torch.empty(0, dtype=torch.int64)
        self.rows, self.capacity, self.layers = rows, 0, layers
        self.made = 0
        self.span = Span(0, 0, 0, 0, False, nothing, nothing, nothing)
        self.ends_early, self.written = False, 0


def runs_of(marks: list[int], counts: Sequence[int], positions: Tensor) -> Iterator[Run]:
    """Runs of neighbours with equal ``counts``.

    ``positions`` [T] are those of all their tokens.
    """
    row = token = 0
    for count, same in groupby(counts):
        n = len(list(same))
        rows, tokens = slice(row, row + n), slice(token, token + n * count)
        yield Run(rows, tokens, count, positions[tokens][::count], marks[rows])
        row, token = rows.stop, tokens.stop


def rounded_up(value: int, least: int, most: int) -> int:
    """``value``, rounded up to one of a few sizes.

    The sizes are ``least``, twice that, and so on; none is above ``most``.
    """
    size = least
    while size < value:
        size *= 2
    return min(size, most)


def ragged_mask(span: Span, new: int, window: int | None, additive: torch.dtype | None) -> Tensor:
    """Positions that new tokens of each row may attend to.

    Args:
        span: of the pass. Row b has tokens at ``starts[b]``, ``starts[b] + 1`` and so on.
        new: tokens a row, the longest one's; those beyond a row's count are padding.
        window: keys that a token may attend to, itself included; None is all.
        additive: a dtype, for attention that adds the mask to its scores.

    Returns:
        [n, 1, new, width], bool (true: may attend), or 0 and the dtype's least number.
    """
    device = span.starts.device
    key = torch.arange(span.width, device=device)
    query = (span.starts[:, None] + torch.arange(new, device=device))[:, None, :, None]
    mask = key <= query
    if window is not None:
        mask &= key > query - window
    if additive is None:
        return mask
    return torch.zeros_like(mask, dtype=additive).masked_fill_(~mask, torch.finfo(additive).min)
