"""What one forward pass writes to the cache and reads from it, and the mask of uneven rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Span(NamedTuple):
    """What the next forward pass writes and reads.

    Fields:
        first, size: the places in the buffer that it runs over, ``first .. first + size - 1``.
        start: length of the longest of them before the pass.
        width: positions that attention reads; start and width are the same for all layers.
        ragged: the rows differ in length or in new tokens, and a mask says what each may read.
        rows, starts, counts: int64 tensors [size], as ``kv_append_`` takes them.
    """

    first: int
    size: int
    start: int
    width: int
    ragged: bool
    rows: Tensor
    starts: Tensor
    counts: Tensor


def rounded_up(value: int, least: int, most: int) -> int:
    """The first of ``least``, twice that, and so on, that holds ``value``; at most ``most``."""
    size = least
    while size < value:
        size *= 2
    return min(size, most)


def ragged_mask(span: Span, new: int, window: int | None, additive: torch.dtype | None) -> Tensor:
    """Which positions each new token of each row may attend to.

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
