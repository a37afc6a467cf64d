"""The contract of an engine: requests about rows.

What comes up is tokens and numbers. An engine stands for one model. It is given rows, each the text
of one answer and how tokens of it are drawn, and keeps for each what its model has read. How much
that is stands on the transcript: the engine raises its read mark, and what shortens the text lowers
it. An engine that has read further than its mark rolls back when it next looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from ..core.cost import Usage
from ..core.requests import Draw, Graded, Looked, Question, Row

T = TypeVar("T")


class Later(NamedTuple):
    """In place of a reply that is on its way.

    The row is to ask the same again. An engine elsewhere says so of rows for which nothing has
    come yet, while others have their replies.

    Fields:
        wait: returns once something has come for any row that was told so, or after so many
            seconds. Engines that are run together have one that heeds all of them.
    """

    wait: Callable[[float], None]


# For each row its reply; the error of a row that fails, the others having their reply; Later; or
# None for a row that is to ask again, where long prompts are read in parts: the read mark of one
# has moved.
Replies = list[T | Exception | Later | None]


class Engine(Protocol):
    """One model over the transcripts of some answers.

    Tensors stay below it; tokens and numbers come up. Whatever it is asked, it first reads what is
    pending of the transcripts of these rows, and moves their read marks.
    """

    def open(self, row: int, answer: Row) -> None:
        """Let row ``row`` be ``answer`` from now on.

        Its usage counts from 0. What was read of the same transcript before is kept, up to its read
        mark.
        """

    def close(self, row: int) -> None:
        """Forget ``row``, which nobody will ask about again.

        The read mark of its transcript goes to 0.
        """

    def write(
        self, rows: Sequence[int], looking: Sequence[int] = ()
    ) -> Replies[list[Draw] | Looked]:
        """Draw tokens for ``rows``, and look at ``looking``.

        In as few passes as can be.

        Returns:
            For each of ``rows`` one token or more, at most ``room`` of the row and at most to the
            end of its step; then for each of ``looking`` the statistics of its next token. Tokens
            are not appended: whoever asked does that, and lowers the mark if it takes fewer.
        """

    def look(self, rows: Sequence[int]) -> Replies[Looked]:
        """The statistics of the next token; writes nothing."""

    def read(self, rows: Sequence[int], counts: Sequence[int]) -> Replies[Graded]:
        """Grade the last ``counts`` tokens of each row.

        A grade is what the model makes of tokens that another wrote.
        """

    def verify(self, rows: Sequence[int]) -> Replies[list[Draw]]:
        """Say which drafts of each row stay.

        A row has drafts at the end of its transcript, and says by which rule they are judged.

        Returns:
            For each row the drafts that stay, from the first on, and one token more: what is
            written in place of the first that falls, or behind the last. The transcript is as it
            was; whoever asked cuts it, and lowers the mark to what stays of what was read.
        """

    def ask(self, rows: Sequence[int], question: Question) -> Replies[Graded]:
        """Answer ``question`` behind each transcript, and forget it."""

    def usage(self, row: int) -> Usage:
        """What a row has cost since it was opened.

        That is, what the model has read and computed for it.
        """

    @property
    def held_bytes(self) -> int:
        """Bytes taken for what has been read."""
