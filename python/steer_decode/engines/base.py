"""What the loop wants of a model: five requests about rows, in tokens and numbers.

An engine stands for one model. It is given rows, each the text of one answer and how tokens of it
are drawn, and keeps for each what its model has read. How much that is stands on the transcript:
the engine raises its read mark, and what shortens the text lowers it. An engine that has read
further than its mark rolls back when it next looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from ..core.cost import Usage
from ..core.requests import Draw, Graded, Looked, Question, Row
from ..errors import SteerError

T = TypeVar("T")
# For each row its reply; the error of a row that fails, the others having their reply; or None for
# a row that is to ask again, where long prompts are read in parts: the read mark of one has moved.
Replies = list[T | SteerError | None]


class Engine(Protocol):
    """One model over the transcripts of some answers.

    Tensors stay below it; tokens and numbers come up. Whatever it is asked, it first reads what is
    pending of the transcripts of these rows, and moves their read marks.
    """

    def open(self, row: int, answer: Row) -> None:
        """Row ``row`` is ``answer`` from now on, and its usage counts from 0.

        What was read of the same transcript before is kept, up to its read mark.
        """

    def close(self, row: int) -> None:
        """Nobody will ask about ``row`` again; the read mark of its transcript goes to 0."""

    def write(
        self, rows: Sequence[int], looking: Sequence[int] = ()
    ) -> Replies[list[Draw] | Looked]:
        """Draws tokens for ``rows``, and looks at ``looking``, in as few passes as can be.

        Returns:
            For each of ``rows`` one token or more, at most ``room`` of the row and at most to the
            end of its step; then for each of ``looking`` the statistics of its next token. Tokens
            are not appended: whoever asked does that, and lowers the mark if it takes fewer.
        """

    def look(self, rows: Sequence[int]) -> Replies[Looked]:
        """The statistics of the next token; writes nothing."""

    def read(self, rows: Sequence[int], counts: Sequence[int]) -> Replies[Graded]:
        """What the model makes of the last ``counts`` tokens of each row."""

    def ask(self, rows: Sequence[int], question: Question) -> Replies[Graded]:
        """What the model answers to ``question`` behind each transcript, which it then forgets."""

    def usage(self, row: int) -> Usage:
        """What the model has read and computed for a row since it was opened."""

    @property
    def held_bytes(self) -> int:
        """Memory that is taken for what has been read, in bytes."""
