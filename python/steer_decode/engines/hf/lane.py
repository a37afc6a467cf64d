"""A lane: one model, its KV cache, its read marks.

A read mark says how much of a transcript the model has read. Everything that a model does in routed
decoding is one call. ``catch_up`` reads the tokens between the read mark and the end of the
transcript and returns the logits of the next token: for a prompt that is everything, for a decode
step one token, for a hand-over what the other model wrote. It does so for any number of transcripts
at once, whatever their lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from ...core.cost import Pass
from ...core.transcript import Transcript
from .budget import SHORT
from .gradients import without_gradients
from .passes import Passes

IDLE_SHARE = 1 / 16  # of a GPU's memory, that a cache may hold beyond what its rows need


class Lane(Passes):
    """A model and its KV cache, for several transcripts.

    Arguments as :class:`Passes`.
    """

    def open(self, row: int, transcript: Transcript) -> None:
        """Let row ``row`` read ``transcript`` from now on.

        What it has read of the same one stays.
        """
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
        """Forget what a row has read.

        Memory that no row needs is given back.
        """
        self._transcripts[row] = Transcript([])
        self.cache.lengths[row] = 0
        self.last.forget(row)
        if not self.stays:
            self.cache.shrink()

    @property
    def stays(self) -> bool:
        """Whether buffers stay as they are when rows end.

        With what was captured over them. They do on a GPU, up to a share of its memory: to capture
        passes anew takes as long as to write a short answer, and what is given back stays with
        torch.
        """
        if self._device.type != "cuda":
            return False
        memory = torch.cuda.get_device_properties(self._device).total_memory
        return self.cache.held_bytes <= IDLE_SHARE * memory

    @property
    def runs_ahead(self) -> bool:
        """Whether tokens may be written between looks of the host."""
        serving = self.serving
        return self.takes_masks and serving.roll_back and serving.scaled is None

    def catch_up(self, rows: Sequence[int] = (0,)) -> Tensor:
        """Read what is pending in ``rows``.

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
                self.roll_back(row, self.read_mark(row) - 1)
                pending = 1
            if pending:
                behind.append(row)
                if pending > SHORT:
                    self.shorten(row, 1)
        if len(rows) == 1 and behind:
            logits = self.read(rows, [self._unread(row) for row in rows])
            self.last.keep(rows, logits)
            return logits
        if behind:
            self._read(behind)
        known = [self.known_logits(row) for row in rows]
        return torch.stack(known)  # type: ignore[arg-type]

    def roll_back(self, row: int, length: int) -> None:
        """Forget what was read beyond the first ``length`` tokens."""
        if length < 0:
            raise ValueError(f"length must be at least 0, got {length}")
        if length < self.read_mark(row):
            if not self.serving.roll_back:
                length = 0
            self.cache.roll_back(row, length)
            self.last.roll_back(row, length)

    def prefill(self, rows: Sequence[int]) -> list[int]:
        """Read what is pending, but for its last token.

        In chunks of a few sizes. Returns ``rows`` in the order in which they lie in the cache. Each
        then has one token pending; or none, if :meth:`known_logits` has what comes after the last.
        """
        rows = self.cache.arrange(rows)
        for row in rows:
            if self.pending(row) == 0 and self.last.of(row) is None:
                self.roll_back(row, self.read_mark(row) - 1)
            self.shorten(row, 1)
        for behind, run in groupby(rows, key=lambda row: self.pending(row) > 1):
            if behind:
                self.read_chunk(list(run))
        return rows

    def known_logits(self, row: int = 0) -> Tensor | None:
        """The logits [V] behind a transcript, if they are known.

        They are if it was read to its end; else None.
        """
        return None if self.pending(row) else self.last.of(row)

    def count_passes(self, rows: Sequence[int], count: int) -> None:
        """Move the read marks on by ``count`` tokens.

        ``forward`` has read them one at a time.
        """
        for row in rows:
            mark = self.read_mark(row)
            self._passes[row] += [
                Pass(1, mark + i, len(rows), tokens=len(rows)) for i in range(count)
            ]
            self.cache.lengths[row] = mark + count
            self.last.forget(row)

    def read_part(self, row: int, most: int, keep: int = 1) -> int:
        """Read at most ``most`` pending tokens, and count them.

        The last ``keep`` of them stay pending.
        """
        part = min(most, self.pending(row) - keep, self._most())
        if part > 0:
            self.cache.reserve(len(self._transcripts[row]))
            self.fill([row], [self._unread(row)[:part]])
        return max(0, part)

    def read_early(self, row: int, mark: int, new: Sequence[int]) -> None:
        """Read ``new`` behind the first ``mark`` tokens of a row.

        Its transcript, which may change meanwhile, is not looked into.
        """
        self.roll_back(row, mark)
        if self.serving.scaled or self.read_mark(row) != mark:
            return  # it would have to be read from its beginning
        while new:
            part = list(new[: self._most()])
            self.cache.reserve(self.read_mark(row) + len(new))
            self.fill([row], [part])
            new = new[len(part) :]

    def shorten(self, row: int, least: int) -> None:
        """Read what is long in parts, since activations need memory.

        At least the last ``least`` tokens stay pending. A pass keeps those of all its tokens, many
        times their keys and values.
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

    def _read(self, rows: Sequence[int]) -> None:
        """Bring the read mark of every row to the end of its transcript."""
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
            alike = alike and len({self.read_mark(row) for row in rows}) == 1
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
            self.last.keep(group, self.read(group, [self._unread(row) for row in group]))
