"""An engine without a model and without torch: what it writes is a function of what it has read.

It keeps what it has read as ids, and complains where its read mark says otherwise; so whoever runs
on it is shown to need nothing of an engine but the contract.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from steer_decode.core.cost import Usage
from steer_decode.core.requests import Draw, Graded, Looked, Question, Row
from steer_decode.core.transcript import Writer
from steer_decode.engines.base import Later, Replies


def next_token(writer: Writer, ids: Sequence[int], vocab: int) -> tuple[int, float]:
    """The likeliest token after ``ids``, and a score; of all of them, in any order of arrival."""
    state = 17 if writer == "small" else 29
    for token in ids:
        state = (state * 31 + token + 7) % 10007
    return state % vocab, 1 + state % 13


def log_prob(writer: Writer, ids: Sequence[int], token: int, vocab: int) -> float:
    """Log-probability of ``token`` after ``ids``: 0.9 for the likeliest, the rest shared evenly."""
    best, _ = next_token(writer, ids, vocab)
    return math.log(0.9 if token == best else 0.1 / (vocab - 1))


class ScriptedEngine:
    """An :class:`~steer_decode.engines.base.Engine` over :func:`next_token`.

    Args:
        writer: which model it stands for.
        vocab: ids that it writes.
        most: tokens that a call writes at most.
        part: tokens that a call reads of a row at most.
        late: for a row the calls that it waits for what it is told; it comes by waiting.
    """

    def __init__(
        self,
        writer: Writer,
        vocab: int,
        most: int = 1,
        part: int = 10**6,
        late: Callable[[int], int] = lambda row: 0,
    ) -> None:
        self.writer, self.vocab, self.most, self.part = writer, vocab, most, part
        self.answers: dict[int, Row] = {}
        self.known: dict[int, list[int]] = {}
        self.counts: dict[int, Usage] = {}
        self.calls: list[tuple[str, list[int]]] = []
        self.late, self.left, self.waits = late, dict[int, int](), 0

    def wait(self, seconds: float) -> None:
        """What is on its way comes nearer, of all rows."""
        self.waits += 1
        self.left = {row: n - 1 for row, n in self.left.items()}

    def open(self, row: int, answer: Row) -> None:
        before = self.answers.get(row)
        if before is None or before.transcript is not answer.transcript:
            self.known[row] = []
        self.answers[row], self.counts[row] = answer, Usage()

    def close(self, row: int) -> None:
        self.answers.pop(row).transcript.read[self.writer] = 0
        del self.known[row]

    def write(
        self, rows: Sequence[int], looking: Sequence[int] = ()
    ) -> Replies[list[Draw] | Looked]:
        self.calls.append(("write", [*rows, *looking]))
        replies: list[list[Draw] | Looked | Later | None] = []
        for row in (*rows, *looking):
            if self.left.setdefault(row, self.late(row)) > 0:
                replies.append(Later(self.wait))
                continue
            if not self._catch_up(row):
                replies.append(None)
                continue
            del self.left[row]
            if row in looking:
                draw = Draw(*next_token(self.writer, self.known[row], self.vocab))
                replies.append(Looked(draw.value, None, draw))
            else:
                replies.append(self._drawn(row))
        return list(replies)

    def _drawn(self, row: int) -> list[Draw]:
        answer, ids, drawn = self.answers[row], list(self.known[row]), []
        scan = answer.boundary.scan(answer.step_ids)
        while len(drawn) < min(self.most, answer.room):
            draw = Draw(*next_token(self.writer, ids, self.vocab))
            drawn.append(draw)
            ids.append(draw.token)
            if scan.push(draw.token) or draw.token in answer.ends:
                break
        self._read(row, ids[:-1])
        return drawn

    def look(self, rows: Sequence[int]) -> Replies[Looked]:
        return self.write((), rows)  # type: ignore[return-value]

    def read(self, rows: Sequence[int], counts: Sequence[int]) -> Replies[Graded]:
        self.calls.append(("read", [*rows]))
        replies: list[Graded | None] = []
        for row, n in zip(rows, counts, strict=True):
            if not self._catch_up(row):
                replies.append(None)
                continue
            ids = self.known[row]
            places = range(len(ids) - n, len(ids))
            found = [log_prob(self.writer, ids[:i], ids[i], self.vocab) for i in places]
            likeliest = [next_token(self.writer, ids[:i], self.vocab)[0] == ids[i] for i in places]
            replies.append(Graded(found, likeliest))
        return list(replies)

    def verify(self, rows: Sequence[int]) -> Replies[list[Draw]]:
        self.calls.append(("verify", [*rows]))
        replies: list[list[Draw] | None] = []
        for row in rows:
            if not self._catch_up(row):
                replies.append(None)
                continue
            ids, draws = self.known[row], list[Draw]()
            for at in range(len(ids) - len(self.answers[row].drafts), len(ids) + 1):
                draws.append(Draw(*next_token(self.writer, ids[:at], self.vocab)))
                if ids[at : at + 1] != [draws[-1].token]:
                    break
            replies.append(draws)
        return list(replies)

    def ask(self, rows: Sequence[int], question: Question) -> Replies[Graded]:
        self.calls.append(("ask", [*rows]))
        replies: list[Graded | None] = []
        for row in rows:
            if not self._catch_up(row):
                replies.append(None)
                continue
            ids = [*self.known[row], *question.ids]
            found = [log_prob(self.writer, ids, token, self.vocab) for token in question.choices]
            replies.append(Graded(found, []))
        return list(replies)

    def usage(self, row: int) -> Usage:
        return self.counts[row]

    @property
    def held_bytes(self) -> int:
        return 8 * sum(map(len, self.known.values()))

    def _catch_up(self, row: int) -> bool:
        """Reads what is pending, a part at a time; whether that is all of it."""
        text = self.answers[row].transcript
        del self.known[row][text.read[self.writer] :]
        assert self.known[row] == text.ids[: text.read[self.writer]], "the mark is too far"
        self._read(row, text.ids[: len(self.known[row]) + self.part])
        return len(self.known[row]) == len(text)

    def _read(self, row: int, ids: list[int]) -> None:
        self.counts[row].processed += len(ids) - len(self.known[row])
        self.known[row] = ids
        self.answers[row].transcript.read[self.writer] = len(ids)
