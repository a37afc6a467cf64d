"""A lane whose RoPE frequencies depend on the text's length.

The models of transformers take the frequencies of a pass from its longest position. So rows whose
text is beyond the boundary run by themselves, and a pass over tokens that lie before the end of
what decides (a part of a prompt) is given one position more, as padding behind its last token.

What frequencies the keys have is what ``generate`` would give them, see :class:`Scaled`; where the
keys in the cache have others, the text is read again from its beginning. Dynamic scaling also
remembers the longest text so far: it is made to forget around every pass beyond the boundary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...core.shape import ModelShape
from ...core.transcript import Transcript
from .budget import Budget
from .lane import Lane
from .serving import USUAL, Serving


class ScaledLane(Lane):
    """As :class:`Lane`; its ``serving.scaled`` says where the frequencies change."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        assert self.serving.scaled is not None
        self._scaled = self.serving.scaled
        self._held = [0] * len(self._transcripts)  # frequencies of the keys of each row
        self._growing = growing(self.model) if self._scaled.grows else []

    @property
    def takes_masks(self) -> bool:
        """Whether rows of different length run in one pass.

        They do while none is beyond the boundary.
        """
        longest = max(map(len, self._transcripts))
        return super().takes_masks and longest + self._scaled.grows <= self._scaled.boundary

    def read(
        self,
        rows: Sequence[int],
        new: list[list[int]],
        keep: int = 0,
        heads: Sequence[int] | None = None,
    ) -> Tensor:
        """Read tokens of rows, as :meth:`Lane.read`.

        Rows that need frequencies of their own run one by one.
        """
        if self._plain(rows, new):
            return super().read(rows, new, keep, heads)
        if len(rows) > 1:
            assert not keep, "the caller asks takes_masks before it wants several logits of rows"
            return torch.cat([self.read([row], [ids]) for row, ids in zip(rows, new, strict=True)])
        row, ids, logits = rows[0], new[0], []
        wanted = max(1, keep)  # of the last tokens
        start, end = self.read_mark(row), self.read_mark(row) + len(ids)
        for stop in self._stops(row, start, end, wanted):
            piece = ids[start + len(ids) - end : stop + len(ids) - end]
            behind = min(len(piece), max(0, wanted - (end - stop)))
            if not behind:
                self._fill_row(row, piece, end)
            else:
                self._turn_to(row, stop)
                count = [heads[0] if stop == end else 0] if heads else None
                out = self._afresh(super().read, [row], [piece], behind, count)
                logits.append(out)
            start = stop
        found = torch.cat(logits, dim=1)
        return found if keep else found[:, -1]

    def fill(self, rows: Sequence[int], new: list[list[int]]) -> None:
        """Read tokens for keys and values, as :meth:`Lane.fill`.

        Rows that need frequencies of their own run one by one.
        """
        if self._plain(rows, new):
            super().fill(rows, new)
            return
        for row, ids in zip(rows, new, strict=True):
            start = self.read_mark(row)
            end = start + len(ids)
            text = max(end, len(self._transcripts[row]))
            for stop in self._stops(row, start, end, 0):
                self._fill_row(row, ids[start + len(ids) - end : stop + len(ids) - end], text)
                start = stop

    def read_packed(self, rows: Sequence[int], new: list[list[int]]) -> Tensor | None:
        """Read tokens without padding, as :meth:`Lane.read_packed`.

        None where a row needs frequencies of its own.
        """
        return super().read_packed(rows, new) if self._plain(rows, new) else None

    def open(self, row: int, transcript: Transcript) -> None:
        """As :meth:`Lane.open`."""
        super().open(row, transcript)
        self._held += [0] * (row + 1 - len(self._held))

    def close(self, row: int) -> None:
        """As :meth:`Lane.close`."""
        super().close(row)
        if row < len(self._held):
            self._held[row] = 0

    def _plain(self, rows: Sequence[int], new: Sequence[list[int]]) -> bool:
        """Whether all keys of these rows have the original frequencies, and so have the new."""
        scaled = self._scaled
        for row, ids in zip(rows, new, strict=True):
            longest = max(len(self._transcripts[row]), self.read_mark(row) + len(ids))
            # At the boundary itself, dynamic scaling does not forget a longer text.
            if self._held[row] or longest + scaled.grows > scaled.boundary:
                return False
        return True

    def _stops(self, row: int, start: int, end: int, wanted: int) -> Iterator[int]:
        """Ends of the passes over ``start .. end`` whose tokens have the same frequencies.

        The logits of the last ``wanted`` tokens are needed.
        """
        scaled, edge = self._scaled, self._scaled.boundary
        if scaled.anew:
            if max(start, end - wanted) < edge < end and wanted:
                yield edge
        else:
            prompt = self._transcripts[row].prompt_length
            for stop in sorted({prompt, edge}):
                if start < stop < end and stop >= prompt:
                    yield stop
            if scaled.grows:
                yield from range(max(start, prompt, edge) + 1, end)
        yield end

    def _decides(self, row: int, text: int) -> int:
        """The length of text that decides about the keys that :attr:`_held` is of."""
        return text if self._scaled.anew else self._transcripts[row].prompt_length

    def _turn_to(self, row: int, text: int) -> None:
        """Read what is in the cache again if its keys have other frequencies than they should."""
        wanted = self._scaled.frequencies(self._decides(row, text))
        mark = self.read_mark(row)
        if mark and self._held[row] != wanted:
            self.roll_back(row, 0)
            self._held[row] = wanted
            ids = self._transcripts[row].ids[:mark]
            for stop in self._stops(row, 0, mark, 0):
                start = self.read_mark(row)
                for at in range(start, stop, self.part):
                    self._fill_row(row, ids[at : min(at + self.part, stop)], text)
        self._held[row] = wanted

    def _fill_row(self, row: int, ids: list[int], text: int) -> None:
        """One pass over tokens of a row whose text is ``text`` long, for keys and values alone."""
        self._turn_to(row, text)
        end = self.read_mark(row) + len(ids)
        decides = self._decides(row, text)
        if self._scaled.frequencies(end) != self._scaled.frequencies(decides) and end < decides:
            self._afresh(self._fill_below, row, ids, decides - 1)
        else:
            self._afresh(super().fill, [row], [ids])

    def _fill_below(self, row: int, ids: list[int], reach: int) -> None:
        """A pass over ``ids`` with the frequencies of a text whose last position is ``reach``."""
        cache = self.cache
        span = cache.begin([row], [len(ids)], self._device)._replace(ragged=True)
        cache.state.span, cache.reach = span, reach
        try:
            self.forward.fill(torch.tensor([[*ids, ids[-1]]], device=self._device), span)
        finally:
            cache.reach = None
        self._commit([row], [len(ids)])

    def _afresh(self, run: Any, *arguments: Any) -> Any:
        """A pass of a model that remembers no longer text than this one, before and after."""
        forget(self._growing)
        try:
            return run(*arguments)
        finally:
            forget(self._growing)


def lane_of(
    model: PreTrainedModel,
    shape: ModelShape,
    rows: int = 1,
    limit: int = 2**31,
    budget: Budget | None = None,
    serving: Serving = USUAL,
) -> Lane:
    """A lane of the kind that ``serving`` asks for.

    Its rows are yet to be opened.
    """
    kind = Lane if serving.scaled is None else ScaledLane
    texts = [Transcript([]) for _ in range(rows)]
    return kind(model, shape, texts, limit, budget, serving)


def growing(model: nn.Module) -> list[nn.Module]:
    """Modules whose frequencies grow with the longest text seen."""
    return [m for m in model.modules() if "dynamic" in str(getattr(m, "rope_type", ""))]


def forget(modules: Sequence[nn.Module]) -> None:
    """Make modules forget the longest text seen.

    A call with a short text makes them go back to the original frequencies.
    """
    for module in modules:
        kinds = module.rope_type if isinstance(module.rope_type, dict) else [None]
        like = next(module.buffers())
        first = torch.zeros(1, 1, dtype=torch.int64, device=like.device)
        for kind in kinds:
            more = {} if kind is None else {"layer_type": kind}
            module(like, position_ids=first, **more)
