"""What answers ask of engines, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.requests import Look, Question, Read, Request, Verify, Write
from ..core.transcript import Writer
from ..engines.base import Engine, Replies
from .answer import Answer, Judge, Making

PATIENCE = 8  # iterations that a draft waits for others to be read together


@dataclass
class RowsCall:
    """One request to an engine.

    It touches nothing but that engine and the transcripts of its answers, which wait for it.

    Attributes:
        writer: whose engine it is.
        answers: that wait, by their rows.
        ask, args: a method of the engine, and what it is given.
        marks: how far the model had read each answer before.
        replies: one for each answer, in their order.
        seconds: that it took.
    """

    writer: Writer
    answers: Mapping[int, Answer]
    ask: Callable[..., Replies[Any]]
    args: Sequence[object]
    marks: Sequence[int]
    replies: Replies[Any] = field(default_factory=list)
    seconds: float = 0.0


class WaitingRow:
    """An answer, and what it waits for."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.making: Making = answer.run()
        self.request: Request | Judge | None = None
        self.waited = 0  # iterations, of a draft
        self.seconds = 0.0  # its share of what its passes took, and its own work


class WaitingRows(dict[int, WaitingRow]):
    """Rows of a scheduler; their requests as calls to engines."""

    def asking(self, *kinds: type) -> dict[int, Any]:
        """The requests of these kinds, by row."""
        return {i: r.request for i, r in self.items() if isinstance(r.request, kinds)}

    def to_write(self, writer: Writer, engine: Engine) -> RowsCall:
        """The writes and looks of one model."""
        asking = self.asking(Write, Look) if writer == "small" else self.asking(Write)
        rows = [i for i, r in asking.items() if isinstance(r, Write) and r.writer == writer]
        looking = [i for i, r in asking.items() if isinstance(r, Look)]
        return self._call(writer, [*rows, *looking], engine.write, rows, looking)

    def drafts_to_read(self, engine: Engine) -> Iterator[RowsCall]:
        """The drafts that the large model is to read.

        It reads all in a pass. They wait while more answers are being written, since a pass over
        many costs little more than one over few; but no draft for ever.
        """
        drafts = self.asking(Read, Question, Verify)
        writing = len(self.asking(Write, Look))
        for row in drafts:
            self[row].waited += 1
        if len(drafts) < writing and all(self[i].waited < PATIENCE for i in drafts):
            return
        verifying = [*self.asking(Verify)]
        if verifying:
            yield self._call("large", verifying, engine.verify, verifying)
        reads = {i: r.tokens for i, r in drafts.items() if isinstance(r, Read)}
        if reads:
            yield self._call("large", [*reads], engine.read, [*reads], [*reads.values()])
        for question in dict.fromkeys(r for r in drafts.values() if isinstance(r, Question)):
            rows = [i for i, r in self.asking(Question).items() if r == question]
            yield self._call("large", rows, engine.ask, rows, question)

    def _call(
        self, writer: Writer, rows: list[int], ask: Callable[..., Any], *args: Any
    ) -> RowsCall:
        answers = {row: self[row].answer for row in rows}
        marks = [answer.transcript.read[writer] for answer in answers.values()]
        return RowsCall(writer, answers, ask, args, marks)
