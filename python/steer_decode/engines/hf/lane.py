"""A lane: one model, its KV cache, and a watermark of how much of each transcript it has read.

Everything that a model does in routed decoding is one call. ``catch_up`` reads the tokens between
the watermark and the end of the transcript and returns the logits of the next token: for a prompt
that is everything, for a decode step one token, for a hand-over what the other model wrote. It does
so for any number of transcripts at once, whatever their lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain, groupby
from operator import add

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...core.cost import ModelShape, Pass, Usage
from ...core.transcript import Transcript
from .budget import PART, SHORT, Budget
from .cache import KVCache
from .forward import Forward
from .gradients import without_gradients
from .last_logits import LastLogits
from .serving import USUAL, Serving
from .span import Span, rounded_up

CHUNK = 16  # the least chunk of a prefill whose shapes are rounded up; then twice that, and so on


def lane_of(
    model: PreTrainedModel,
    shape: ModelShape,
    rows: int = 1,
    limit: int = 2**31,
    budget: Budget | None = None,
    serving: Serving = USUAL,
) -> Lane:
    """A lane of the kind that ``serving`` asks for, whose rows are yet to be opened."""
    kind: type[Lane] = Lane
    if serving.scaled is not None:
        from .scaled_lane import ScaledLane  # which is a lane

        kind = ScaledLane
    texts = [Transcript([]) for _ in range(rows)]
    return kind(model, shape, texts, limit, budget, serving)


class Lane:
    """A model and its KV cache for a number of transcripts, the rows.

    Args:
        model: a causal language model that passes ``cache_support.check_cache_support``.
        shape: its sizes.
        transcripts: one for each row. The lane reads them and never writes.
        limit: most tokens of a transcript.
        budget: of the pair, which the lane joins. It bounds the parts of prompts on a CPU.
        serving: what the model allows, as its probe has found.

    Attributes:
        cache: the keys and values, with a watermark for each row.
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
        self.cache = KVCache(shape.windows, len(transcripts), limit)
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

    def open(self, row: int, transcript: Transcript) -> None:
        """Row ``row`` reads ``transcript`` from now on; what it has read of the same one stays."""
        while row >= len(self._transcripts):
            self._transcripts.append(Transcript([]))
            self._passes.append([])
        if row >= self.cache.rows:
            self.cache.widen(row + 1)
        self.last.widen(len(self._transcripts))
        if self._transcripts[row] is not transcript:
            self.close(row)
        self._transcripts[row] = transcript
        self._passes[row] = []

    def close(self, row: int) -> None:
        """Forgets what a row has read, and gives memory back that no row needs."""
        self._transcripts[row] = Transcript([])
        self.cache.lengths[row] = 0
        self.last.forget(row)
        self.cache.shrink()

    @property
    def takes_masks(self) -> bool:
        """Whether rows of different length can run in one pass: attention takes a 4-D mask."""
        return self.forward.takes_masks and self.serving.masks

    @property
    def runs_ahead(self) -> bool:
        """Whether several tokens may be written between two looks of the host."""
        serving = self.serving
        return self.takes_masks and serving.roll_back and serving.scaled is None

    def transcript(self, row: int = 0) -> Transcript:
        """The text that a row reads."""
        return self._transcripts[row]

    def watermark(self, row: int = 0) -> int:
        """Tokens of the transcript whose keys and values are in the cache."""
        return self.cache.lengths[row]

    def pending(self, row: int = 0) -> int:
        """Tokens of the transcript that this lane has not read."""
        return len(self._transcripts[row]) - self.cache.lengths[row]

    def catch_up(self, rows: Sequence[int] = (0,)) -> Tensor:
        """Reads what is pending in ``rows``.

        Rows with nothing pending are given what they were given before, without a forward pass.

        Returns:
            Raw logits of the next token [n, V], in the order of ``rows``, in the model's dtype.
        """
        if torch.is_grad_enabled():  # to switch them off takes as long as the rest here
            with without_gradients(self.model):
                return self.catch_up(rows)
        behind = []
        for row in rows:
            pending = self.pending(row)
            if pending == 0 and self.last.of(row) is None:
                # Rolled back to just here: the last token is read again for its logits.
                self.roll_back(row, self.watermark(row) - 1)
                pending = 1
            if pending:
                behind.append(row)
                if pending > SHORT:
                    self.shorten(row, 1)
        if len(rows) == 1 and behind:
            return self._read_pending(rows)
        if behind:
            self._read(behind)
        known = [self.known_logits(row) for row in rows]
        return torch.stack(known)  # type: ignore[arg-type]

    def roll_back(self, row: int, length: int) -> None:
        """Forgets what was read beyond the first ``length`` tokens of a transcript."""
        if length < 0:
            raise ValueError(f"length must be at least 0, got {length}")
        if length < self.watermark(row):
            if not self.serving.roll_back:
                length = 0
            self.cache.roll_back(row, length)
            self.last.roll_back(row, length)

    def usage(self, row: int = 0) -> Usage:
        """What the model has read and computed for a row so far."""
        return Usage.of(self._shape, self._passes[row])

    def forget_usage(self, row: int = 0) -> None:
        """Counts anew from here."""
        self._passes[row].clear()

    def prefill(self, rows: Sequence[int]) -> list[int]:
        """Reads all but the last token of what is pending, in chunks of a few sizes.

        Returns ``rows`` in the order in which they lie in the cache. Each then has one token
        pending; or none, if :meth:`known_logits` has what comes after the last.
        """
        rows = self.cache.arrange(rows)
        for row in rows:
            if self.pending(row) == 0 and self.last.of(row) is None:
                self.roll_back(row, self.watermark(row) - 1)
            self.shorten(row, 1)
        for behind, run in groupby(rows, key=lambda row: self.pending(row) > 1):
            if behind:
                self._read_chunk(list(run))
        return rows

    def known_logits(self, row: int = 0) -> Tensor | None:
        """The logits [V] behind a transcript that has been read to its end, or None."""
        return None if self.pending(row) else self.last.of(row)

    def count_turns(self, rows: Sequence[int], turns: int) -> None:
        """Moves the watermarks over ``turns`` tokens that ``forward`` has read one at a time."""
        for row in rows:
            mark = self.watermark(row)
            self._passes[row] += [
                Pass(1, mark + i, len(rows), tokens=len(rows)) for i in range(turns)
            ]
            self.cache.lengths[row] = mark + turns
            self.last.forget(row)

    def read_part(self, row: int, most: int, keep: int = 1) -> int:
        """Reads at most ``most`` pending tokens, but for the last ``keep``; returns how many."""
        part = min(most, self.pending(row) - keep, self._most())
        if part > 0:
            self.cache.reserve(len(self._transcripts[row]))
            self.fill([row], [self._unread(row)[:part]])
        return max(0, part)

    def shorten(self, row: int, least: int) -> None:
        """Reads what is long in parts, but for ``least`` tokens or more: activations need memory.

        A pass keeps those of all its tokens, many times their keys and values.
        """
        if self.pending(row) <= max(least, min(SHORT, self.part)):
            return
        while self.pending(row) > (most := self._most()) + least:
            # Room for all of it at once: buffers that grow are copied.
            self.cache.reserve(len(self._transcripts[row]))
            self.fill([row], [self._unread(row)[:most]])

    def _most(self) -> int:
        """Tokens that a pass may read now."""
        if self._budget is None:
            return self.part
        longest = max(map(len, self._transcripts))
        return min(self.part, self._budget.tokens(self._shape, self.cache, longest))

    def _read_chunk(self, rows: Sequence[int]) -> None:
        """A forward pass whose shapes are rounded up, so that few of them ever occur."""
        counts = [self.pending(row) - 1 for row in rows]
        marks = [self.watermark(row) for row in rows]
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

    def _read(self, rows: Sequence[int]) -> None:
        """Brings the watermark of every row to the end of its transcript."""
        rows = self.cache.arrange(rows)
        pending = [self.pending(row) for row in rows]
        alike = min(pending) == max(pending)
        if not alike:
            new = [self._unread(row) for row in rows]
            logits = self.read_packed(rows, new)
            if logits is not None:
                self.last.keep(rows, logits)
                return
        if not self.takes_masks:
            alike = alike and len({self.watermark(row) for row in rows}) == 1
            groups = [rows] if alike else [[row] for row in rows]
        elif alike:
            groups = [rows]
        else:
            # All but the last token of what is long, neighbours together, so that the last one is
            # read in one pass with the rows that decode.
            for behind, run in groupby(rows, key=lambda row: self.pending(row) > 1):
                if behind:
                    some = list(run)
                    self.fill(some, [self._unread(row)[:-1] for row in some])
            groups = [rows]
        for group in groups:
            self._read_pending(group)

    def _read_pending(self, rows: Sequence[int]) -> Tensor:
        """One forward pass over what is pending in neighbouring rows; logits [n, V] behind it."""
        new = [self._unread(row) for row in rows]
        logits = self.read(rows, new)
        self.last.keep(rows, logits)
        return logits

    def _unread(self, row: int) -> list[int]:
        return self._transcripts[row].ids[self.cache.lengths[row] :]

    def read(
        self,
        rows: Sequence[int],
        new: list[list[int]],
        keep: int = 0,
        heads: Sequence[int] | None = None,
    ) -> Tensor:
        """One forward pass over tokens of rows that lie side by side, whatever their transcripts.

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
        """As :meth:`read`, for the keys and values alone: nobody needs the logits."""
        if _uneven(new) and self.read_packed(rows, new) is not None:
            return
        ids, span = self._begin(rows, new)
        self.forward.fill(ids, span)
        self._commit(rows, [len(ids) for ids in new])

    def _begin(self, rows: Sequence[int], new: Sequence[list[int]]) -> tuple[Tensor, Span]:
        """Begins a pass over the tokens ``new`` of rows; they are padded where they differ."""
        counts = [len(ids) for ids in new]
        span = self.cache.begin(rows, counts, self._device)
        if len(rows) == counts[0] == 1:
            # Filling a tensor that is there costs a third of making one; on a GPU, no copy either.
            return self._one.fill_(new[0][0]), span
        length = max(counts)
        padded = [ids + ids[-1:] * (length - len(ids)) for ids in new]
        return torch.tensor(padded, device=self._device), span

    def read_packed(self, rows: Sequence[int], new: list[list[int]]) -> Tensor | None:
        """One forward pass over tokens of rows that lie side by side, as many of each as there are.

        The tokens stand one after another, so there is no padding, and every matrix product is over
        just those of ``new``.

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
        """Moves the watermarks over what a pass has read, and counts it."""
        marks = [self.cache.lengths[row] for row in rows]
        self.cache.commit()
        for i, row in enumerate(rows):
            self._passes[row].append(
                Pass(counts[i], marks[i], len(rows), heads[i] if heads else 1, sum(counts))
            )
            self.last.forget(row)


def _uneven(new: Sequence[list[int]]) -> bool:
    return len(new) > 1 and len(set(map(len, new))) > 1
