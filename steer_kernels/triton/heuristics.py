"""Policy of the Triton kernels.

Tile shapes, and how many programs share a row. Sums belong to tiles of a fixed size and are merged
in the order of the tiles, and the top-k is exact: so the split of a row cannot change a result, and
may follow the batch and the machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

TILE = 2048  # columns that share one (m, S, T); fixed, because the bits of the sums follow it
# 128 threads of 16 columns each: two (16-bit) or four (fp32) 128-bit loads in flight per thread.
# Registers for four programs on a multiprocessor: ptxas, left to itself, takes more for some of the
# kernels, and for others so few that it spills; which, depends on its version.
LAUNCH = {"num_warps": 4, "enable_fp_fusion": False, "maxnreg": 128}
MAX_SPLITS = 128  # bounds the candidates that the last program of a row reads again
PROGRAMS_PER_SM = 4
NUCLEUS = 32  # ranks listed for top_p and min_p
MAX_LENGTH = 64  # of a list
# Leading bits of a float32 that tell all values of a dtype apart; the others are zero.
CODE_BITS = {torch.float32: 32, torch.bfloat16: 16, torch.float16: 19}


@dataclass(frozen=True)
class RowSplit:
    """How a row is cut among programs.

    `splits` programs of up to `tiles_per_split` tiles, none without a tile.
    """

    tiles: int
    tiles_per_split: int
    splits: int


def list_size(k: int) -> int:
    """Slots of a running top-k list.

    The next power of two, at least 16.
    """
    return max(16, 1 << (k - 1).bit_length())


def cut_list_length(k: int, top_k: int, vocab_size: int) -> int:
    """Length of the lists that decide the cuts.

    One more than top_k shows a tie of its last. Where top_k does not bound what is kept, NUCLEUS
    covers most steps of a language model.
    """
    wanted = top_k + 1 if 0 < top_k < MAX_LENGTH else NUCLEUS
    return min(max(k, wanted), vocab_size)


def split_rows(rows: int, vocab_size: int, sm_count: int) -> RowSplit:
    """Cut `rows` rows into about PROGRAMS_PER_SM programs per multiprocessor."""
    tiles = -(-vocab_size // TILE)
    wanted = -(-PROGRAMS_PER_SM * sm_count // max(rows, 1))
    tiles_per_split = -(-tiles // min(wanted, MAX_SPLITS, tiles))
    return RowSplit(tiles, tiles_per_split, -(-tiles // tiles_per_split))
