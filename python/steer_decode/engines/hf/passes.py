"""One forward pass over tokens of some rows.

There are three kinds: padded, packed, and in a few sizes. Each begins a pass of the cache, runs the
model, moves the read marks and is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from operator import add

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...core.cost import Pass, Usage
from ...core.shape import ModelShape
from ...core.transcript import Transcript
from .budget import PART, Budget
from .cpu import cache_of
from .forward import Forward
from .last_logits import LastLogits
from .serving import USUAL, Serving
from .span import Span, rounded_up

CHUNK = 16  # the least chunk of a prefill whose shapes are rounded up; then twice that, and so on


class Passes:
    """A model, its KV cache, and the texts it reads.

    Each text is a row.

    Args:
        model: a causal language model that passes ``cache_support.check_cache_support``.
        shape: its sizes.
        transcripts: one for each row. The lane reads them and never writes.
        limit: most tokens of a transcript.
        budget: of the pair, which the lane joins. It bounds the parts of prompts on a CPU.
        serving: what the model allows, as its probe has found.

    Attributes:
        cache: the keys and values, with a read mark for each row.
        forward: runs the model over them.
        last: the logits behind what has been read of each row.
        serving: what the model allows.
        part: most tokens of a prompt that one pass reads, whatever the budget.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        shape: ModelShape,
        transcripts: Sequence[Transcript],
        limit: int = 2**31,
        budget: Budget | None = None,
        serving: Serving = USUAL,
    ) -> None:
        self.model = model
        self.serving = serving
        self._shape = shape
        self._transcripts = list(transcripts)
        self.cache = cache_of(model, shape.windows, len(transcripts), limit)
        self._device = model.device
        self.part = PART[self._device.type == "cuda"]
        self._budget = budget if self._device.type == "cpu" else None
        if self._budget:
            self._budget.join(model, shape, self.cache)
        # What a token is read from.
        self._one = torch.zeros(1, 1, dtype=torch.int64, device=self._device)
        self.forward = Forward(model, shape.windows, self.cache, serving.direct)
        self.last = LastLogits(len(transcripts))
        # (new tokens, cached tokens, rows, positions of the head) of each forward pass; sums are
        # made when asked for.
        self._passes: list[list[Pass]] = [[] for _ in transcripts]

    @property
    def takes_masks(self) -> bool:
        """Whether rows of different length run in one pass.

        They do where attention takes a 4-D mask.
        """
        return self.forward.takes_masks and self.serving.masks

    def transcript(self, row: int = 0) -> Transcript:
        """The text that a row reads."""
        return self._transcripts[row]

    def read_mark(self, row: int = 0) -> int:
        """Tokens of the transcript that the cache holds."""
        return self.cache.lengths[row]

    def pending(self, row: int = 0) -> int:
        """Tokens of the transcript that this lane has not read."""
        return len(self._transcripts[row]) - self.cache.lengths[row]

    def usage(self, row: int = 0) -> Usage:
        """What the model has read and computed for a row."""
        return Usage.of(self._shape, self._passes[row])

    def forget_usage(self, row: int = 0) -> None:
        """Count anew from here."""
        self._passes[row].clear()

    def read(
        self,
        rows: Sequence[int],
        new: list[list[int]],
        keep: int = 0,
        heads: Sequence[int] | None = None,
    ) -> Tensor:
        """Read tokens of rows side by side, in one pass.

        Whatever their transcripts.

        Args:
            rows: in the order in which they lie, see ``KVCache.arrange``.
            new: the tokens of each.
            keep: as in ``forward.logits``, which it returns.
            heads: positions of each row that count as the head's work; one by default.
        """
        if not keep and _uneven(new) and (packed := self.read_packed(rows, new)) is not None:
            return packed
        ids, span = self._begin(rows, new)
        logits = self.forward.logits(ids, span, keep)
        self._commit(rows, [len(ids) for ids in new], heads)
        return logits

    def fill(self, rows: Sequence[int], new: list[list[int]]) -> None:
        """Read tokens for their keys and values alone.

        As :meth:`read`, where nobody needs the logits.
        """
        if _uneven(new) and self.read_packed(rows, new) is not None:
            return
        ids, span = self._begin(rows, new)
        self.forward.fill(ids, span)
        self._commit(rows, [len(ids) for ids in new])

    def _begin(self, rows: Sequence[int], new: Sequence[list[int]]) -> tuple[Tensor, Span]:
        """Begin a pass over the tokens ``new`` of rows; they are padded where they differ."""
        counts = [len(ids) for ids in new]
        span = self.cache.begin(rows, counts, self._device)
        if len(rows) == counts[0] == 1:
            # Filling a tensor that is there costs a third of making one; on a GPU, no copy either.
            return self._one.fill_(new[0][0]), span
        length = max(counts)
        padded = [ids + ids[-1:] * (length - len(ids)) for ids in new]
        return torch.tensor(padded, device=self._device), span

    def read_packed(self, rows: Sequence[int], new: list[list[int]]) -> Tensor | None:
        """Read tokens of rows in one pass without padding.

        The rows lie side by side. The tokens of all of them stand one after another, as many as
        there are, so every matrix product is over just those of ``new``.

        Returns:
            Logits [n, V] behind the last token of each row; or None, with nothing read, where the
            attention of this model or of so many tokens needs a mask.
        """
        counts = [len(ids) for ids in new]
        ends = map(add, [self.cache.lengths[row] for row in rows], counts)
        if not (self.serving.masks and self.forward.packs(max(counts), max(ends))):
            return None
        self.cache.begin_packed(rows, counts, self._device)
        behind = torch.tensor([*accumulate(counts)], device=self._device)
        ids = torch.tensor([[*chain(*new)]], device=self._device)
        logits = self.forward.packed(ids, behind - 1)
        if logits is not None:
            self._commit(rows, counts)
        return logits

    def _commit(
        self, rows: Sequence[int], counts: Sequence[int], heads: Sequence[int] | None = None
    ) -> None:
        """Move the read marks over what a pass has read, and count it."""
        marks = [self.cache.lengths[row] for row in rows]
        self.cache.commit()
        for i, row in enumerate(rows):
            self._passes[row].append(
                Pass(counts[i], marks[i], len(rows), heads[i] if heads else 1, sum(counts))
            )
            self.last.forget(row)

    def read_chunk(self, rows: Sequence[int]) -> None:
        """Read what is pending, in a pass of few shapes.

        Its sizes are rounded up. The last token of each row stays pending.
        """
        counts = [self.pending(row) - 1 for row in rows]
        marks = [self.read_mark(row) for row in rows]
        length = rounded_up(max(counts), CHUNK, 2**31)
        new = [
            self._transcripts[row].ids[mark : mark + n] + [0] * (length - n)
            for row, mark, n in zip(rows, marks, counts, strict=True)
        ]
        width = self.cache.reserve(max(m + n for m, n in zip(marks, counts, strict=True)))
        exact = self.cache.begin(rows, counts, self._device)
        span = self.cache.begin_fixed(rows, exact.rows, exact.starts, exact.counts, width)
        self.forward.fill(torch.tensor(new, device=self._device), span)
        self._commit(rows, counts)

    def _unread(self, row: int) -> list[int]:
        return self._transcripts[row].ids[self.cache.lengths[row] :]


def _uneven(new: Sequence[list[int]]) -> bool:
    return len(new) > 1 and len(set(map(len, new))) > 1
