"""The large model works while the small one writes.

Each model has a device of its own, or processor cores. The large model's requests run in a second
thread, over answers that wait for it, while the small model goes on with the others. Where none
waits, the large model reads what it will have to read in any case: prompts, and steps that stay.
What is written is the same. In processed FLOPs it costs what is read behind the last hand-over of
an answer, and in bytes a pass for each part that is read early.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol, runtime_checkable

from ..core.cost import Usage
from ..core.events import Event
from ..core.requests import Look, Write
from ..core.transcript import Transcript, Writer
from ..engines.base import Engine
from ..policies import AlwaysSmall
from .answer import Answer
from .scheduler import Scheduler
from .waiting import RowsCall

LEAST = 32  # tokens that are worth a pass before they are asked for


@runtime_checkable
class ReadsEarly(Engine, Protocol):
    """An engine that reads before it is asked for anything."""

    def enter_thread(self) -> None:
        """Prepare the calling thread, from which requests will come."""

    def read_early(
        self, rows: Sequence[int], marks: Sequence[int], new: Sequence[Sequence[int]]
    ) -> Sequence[int]:
        """Read tokens that stand behind each row's read mark.

        It looks into no transcript and moves no read mark: others may do so meanwhile.

        Returns:
            How many tokens of each it knows from the beginning.
        """


class _Early(NamedTuple):
    """A row that is read early.

    Fields:
        text: which changes meanwhile.
        ids: as it was, up to where it is read.
        mark: as it was.
    """

    text: Transcript
    ids: list[int]
    mark: int


class Overlapping(Scheduler):
    """A scheduler whose two engines work at the same time.

    Args:
        engines: one for each model, without rows; they share no state.
        large: that of the large model.
    """

    def __init__(self, engines: Mapping[Writer, Engine], large: ReadsEarly) -> None:
        super().__init__(engines)
        self._large = large
        self._thread = ThreadPoolExecutor(1, "steer-large", self._large.enter_thread)
        self._working: Future[Sequence[int]] | None = None
        self._calls: list[RowsCall] = []  # that it works on, or has replied to
        self._early: Sequence[_Early] = ()

    def add(self, answer: Answer, row: int | None = None) -> int:
        self._settle()
        return super().add(answer, row)

    def cancel(self, row: int, reason: str = "cancelled") -> None:
        self._settle()
        super().cancel(row, reason)

    def usage(self, row: int, writer: Writer) -> Usage:
        self._settle()
        return super().usage(row, writer)

    def iterate(self) -> Iterator[tuple[int, Event]]:
        """Let the small model write, and hear the large one."""
        yield from self._begin()
        idle = not self._to_write().answers
        if idle or (self._working and self._working.done()):
            self._settle()
        if self._working is None:
            done, self._calls = self._calls, []
            for call in done:
                yield from self._advance_all(call)
            self._start()
        yield from self._serve(self._to_write())
        yield from self._judge_rounds()

    def _to_write(self) -> RowsCall:
        """What the small model is to write."""
        return self._rows.to_write("small", self.engines["small"])

    def _start(self) -> None:
        """Give the large model what there is to do."""
        rows, large = self._rows, self._large
        asked = (*rows.drafts_to_read(large), rows.to_write("large", large))
        calls = [call for call in asked if call.answers]
        if calls and not self._to_write().answers:
            self._calls = calls
            _run(calls)  # nobody works beside it, so it needs no other thread
        elif calls:
            self._calls = calls
            self._working = self._thread.submit(_run, calls)
        elif early := self._to_read_early():
            self._early = list(early.values())
            marks = [one.mark for one in self._early]
            new = [one.ids[one.mark :] for one in self._early]
            self._working = self._thread.submit(self._large.read_early, [*early], marks, new)

    def _to_read_early(self) -> dict[int, _Early]:
        """Rows that the small model writes, with text that stays and has not been read."""
        found = {}
        for row, held in self._rows.items():
            answer = held.answer
            if not isinstance(held.request, Write | Look) or isinstance(answer.policy, AlwaysSmall):
                continue
            text = answer.transcript
            # The last token of what stays is read with what comes behind it, for its logits.
            end = len(text) - len(answer.step_ids) * isinstance(held.request, Write) - 1
            if end - (mark := text.read["large"]) >= LEAST:
                found[row] = _Early(text, text.ids[:end], mark)
        return found

    def _settle(self) -> None:
        """Wait for the large model.

        What it has replied is for :meth:`iterate`; of what it has read early, what still stands
        there counts.
        """
        if self._working is None:
            return
        working, self._working = self._working, None
        early, self._early = self._early, ()
        for one, known in zip(early, working.result(), strict=False):
            now = one.text.ids
            same = next((i for i in range(known) if now[i : i + 1] != one.ids[i : i + 1]), known)
            one.text.read["large"] = same


def _run(calls: Sequence[RowsCall]) -> Sequence[int]:
    for call in calls:
        begin = time.perf_counter()
        call.replies = call.ask(*call.args)
        call.seconds = time.perf_counter() - begin
    return ()


def scheduler_of(engines: Mapping[Writer, Engine], overlap: bool) -> Scheduler:
    """A scheduler over ``engines``.

    With ``overlap`` both work at the same time. Engines that do not read early are elsewhere, and
    do so anyhow.
    """
    large = engines["large"]
    if overlap and isinstance(large, ReadsEarly):
        return Overlapping(engines, large)
    return Scheduler(engines)
