"""A model of transformers as an engine.

It answers the requests of ``engines/base.py`` over one lane.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import torch
from torch import Tensor

from steer_kernels import Packed, unpack

from ...core.cost import Usage
from ...core.requests import Draw, Graded, Looked, Question, Row, kind
from ...core.transcript import Writer
from ...errors import BrokenModelError, SteerError
from ..base import Replies
from .drawing import drawn
from .gradients import without_gradients
from .grading import ask, grade
from .lane import Lane
from .log_probs import log_probs
from .memory import out_of_memory
from .multi_step import MultiStep
from .sampler import Sampler, values_of
from .verifying import Places, verify

_TOKEN, _VALID = int(Packed.TOKEN), int(Packed.VALID)
_R = TypeVar("_R")
_KINDS = 8  # of rows that write several tokens a call, each with buffers and graphs of its own


class HfEngine:
    """An :class:`~..base.Engine` over one lane.

    Args:
        writer: which of the two models it is.
        lane: the model and its cache.
        vocab_size: ids that may be drawn.
        ahead: tokens between two looks of the host, see ``multi_step.py``; 1 with processors.
        part: most tokens of prompts that one call reads while others wait; None reads them whole.
    """

    def __init__(
        self, writer: Writer, lane: Lane, vocab_size: int, ahead: int = 1, part: int | None = None
    ) -> None:
        self.lane, self._part = lane, part
        self._writer, self._vocab_size = writer, vocab_size
        self._ahead = ahead if lane.runs_ahead else 1
        self._sampler = Sampler(vocab_size)
        self._answers: dict[int, Row] = {}
        self._kinds: dict[Hashable, MultiStep] = {}
        # One for all tokens: as a decorator it is slower.
        self._inference = without_gradients(lane.model)

    def open(self, row: int, answer: Row) -> None:
        self._answers[row] = answer
        self._inference = without_gradients(self.lane.model)  # it may have hooks since
        self.lane.open(row, answer.transcript)

    def close(self, row: int) -> None:
        self._answers.pop(row).transcript.read[self._writer] = 0
        self.lane.close(row)
        if not self._answers and not self.lane.stays:
            self._kinds.clear()  # whose buffers are as large as the most rows that there were
            self.lane.cache.narrow()  # likewise

    @property
    def held_bytes(self) -> int:
        return self.lane.cache.held_bytes

    def usage(self, row: int) -> Usage:
        return self.lane.usage(row)

    def look(self, rows: Sequence[int]) -> Replies[Looked]:
        return self.write((), rows)  # type: ignore[return-value]

    def write(
        self, rows: Sequence[int], looking: Sequence[int] = ()
    ) -> Replies[list[Draw] | Looked]:
        every = [*rows, *looking]
        self._meet(every)
        replies: dict[int, list[Draw] | Looked | Exception] = {}
        ready: Sequence[int] = every
        ahead: list[int] = []
        try:
            if self._part is not None:
                ready = self._in_parts(every, dict.fromkeys(every, 1))
            if self._ahead > 1:
                ahead = [row for row in ready if row not in looking and self._runs_ahead(row)]
                ready = [row for row in ready if row not in ahead]
            if ready:
                answers = [self._answers[row] for row in ready]
                with self._inference:
                    logits = self.lane.catch_up(ready)
                    packed = self._sampler.draw(logits, answers)
                replies.update(self._told(ready, looking, answers, logits, packed))
        except (SteerError, RuntimeError) as error:
            replies.update(dict.fromkeys(ready, self._worded(error, ready)))
        for several in self._alike(ahead):
            replies.update(self._several_each(several))
        self._mark(every)
        return [replies.get(row) for row in every]

    def read(self, rows: Sequence[int], counts: Sequence[int]) -> Replies[Graded]:
        of = dict(zip(rows, counts, strict=True))
        keep = {row: n + 1 for row, n in of.items()}
        return self._judged(
            rows, keep, lambda some: grade(self.lane, some, [of[r] for r in some], self._vocab_size)
        )

    def enter_thread(self) -> None:
        torch.set_num_threads(torch.get_num_threads())  # a new thread's OpenMP has all cores

    def read_early(
        self, rows: Sequence[int], marks: Sequence[int], new: Sequence[Sequence[int]]
    ) -> Sequence[int]:
        # What fails here fails again when it is asked for, and is told then.
        with suppress(SteerError, RuntimeError), self._inference:
            for row, mark, ids in zip(rows, marks, new, strict=True):
                self.lane.read_early(row, mark, ids)
        return [self.lane.read_mark(row) for row in rows]

    def verify(self, rows: Sequence[int]) -> Replies[list[Draw]]:
        keep = {row: len(self._answers[row].drafts) + 1 for row in rows}
        stayed, answers, size = self._stayed, self._answers, self._vocab_size
        return self._judged(rows, keep, lambda some: stayed(verify(self.lane, some, answers, size)))

    def _stayed(self, found: Mapping[int, Places]) -> dict[int, list[Draw] | Exception | None]:
        """The drafts of each row that stay, and one token more; None where logits are not sound."""
        replies: dict[int, list[Draw] | Exception | None] = {}
        for row, (packed, stays, logits) in found.items():
            answer = self._answers[row]
            numbers: list[list[float]] = packed.tolist()
            stay = [*stays.tolist(), False].index(False)
            n, broken = stay + 1, not all(one[_VALID] for one in numbers[: stay + 1])
            values = values_of(packed[:n], numbers[:n], [answer] * n)
            errors = [value for value in values if isinstance(value, SteerError)]
            tokens = [*(d.token for d in answer.drafts[:stay]), int(numbers[stay][_TOKEN])]
            if broken or errors:
                replies[row] = None if broken else errors[0]
                continue
            draws = [Draw(t, v) for t, v in zip(tokens, values, strict=True)]  # type: ignore[arg-type]
            if (top := answer.log_probs) is not None:
                places = zip(draws, numbers, logits, strict=False)
                draws = [d._replace(log_probs=log_probs(n, x, d.token, top)) for d, n, x in places]
            replies[row] = draws
        return replies

    def ask(self, rows: Sequence[int], question: Question) -> Replies[Graded]:
        keep, size = dict.fromkeys(rows, 1), self._vocab_size
        return self._judged(rows, keep, lambda some: ask(self.lane, some, question, size))

    def _judged(
        self,
        rows: Sequence[int],
        keep: Mapping[int, int],
        judge: Callable[[Sequence[int]], Mapping[int, _R | Exception | None]],
    ) -> Replies[_R]:
        self._meet(rows)
        try:
            ready = self._in_parts(rows, keep)
            found = judge(ready) if ready else {}
        except (SteerError, RuntimeError) as error:
            return [self._worded(error, rows)] * len(rows)
        self._mark(rows)
        sound = {row: self._broken(row) if one is None else one for row, one in found.items()}
        return [sound.get(row) for row in rows]

    def _meet(self, rows: Iterable[int]) -> None:
        """Forget what was read beyond the read marks."""
        for row in rows:
            mark = self._answers[row].transcript.read[self._writer]
            if self.lane.cache.lengths[row] > mark:
                self.lane.roll_back(row, mark)

    def _mark(self, rows: Iterable[int]) -> None:
        for row in rows:
            self._answers[row].transcript.read[self._writer] = self.lane.cache.lengths[row]

    def _in_parts(self, rows: Sequence[int], keep: Mapping[int, int]) -> Sequence[int]:
        """Read at most ``part`` tokens of what is long; return the rows that may go on.

        Of each row, the last ``keep`` tokens that are pending stay so.
        """
        if self._part is None or sum(map(self.lane.pending, rows)) <= self._part:
            return rows
        room, ready = self._part, []
        # Half for the one that waits longest, so that none waits for ever; then what is short.
        first, *others = rows
        with self._inference:
            if self.lane.pending(first) > keep[first]:
                room -= self.lane.read_part(first, (room + 1) // 2, keep[first])
            for row in (*sorted(others, key=self.lane.pending), first):
                if self.lane.pending(row) > keep[row]:
                    room -= self.lane.read_part(row, room, keep[row])
                if self.lane.pending(row) <= keep[row]:
                    ready.append(row)
        return [row for row in rows if row in ready]

    def _told(
        self,
        rows: Sequence[int],
        looking: Sequence[int],
        answers: Sequence[Row],
        logits: Tensor,
        packed: Tensor,
    ) -> dict[int, list[Draw] | Looked | Exception]:
        """What each row is told: a token, or a look at it.

        Args:
            rows, answers: in the order of the tensors.
            looking: rows that only look.
            logits: raw [n, V].
            packed: a token of each and the statistics of its logits, see ``sample_logits_packed``.
        """
        numbers: list[list[float]] = packed.tolist()
        values = values_of(packed, numbers, answers)
        replies: dict[int, list[Draw] | Looked | Exception] = {}
        for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            value = values[i]
            if not numbers[i][_VALID]:
                replies[row] = self._broken(row)
            elif isinstance(value, SteerError):
                replies[row] = value
            elif row in looking:
                # If it is to write, it takes this token: one pass less, and no call.
                draw = (
                    None if answer.hooks.processors else drawn(answer, numbers[i], value, logits, i)
                )
                replies[row] = Looked(value, unpack(packed[i : i + 1]).stats, draw)
            elif answer.hooks.processors:
                replies[row] = self._processed(logits[i : i + 1], answer, value)
            else:
                replies[row] = [drawn(answer, numbers[i], value, logits, i)]
        return replies

    def _processed(self, logits: Tensor, answer: Row, value: float) -> list[Draw] | Exception:
        try:
            return [Draw(self._sampler.draw_processed(logits, answer), value)]
        except Exception as error:  # a user's own processors: their row fails, and no other
            return error

    def _runs_ahead(self, row: int) -> bool:
        answer = self._answers[row]
        if answer.proposes and answer.sampling.temperature:
            return False  # what drafts were drawn from is kept
        return answer.room > 1 and not answer.hooks.processors and answer.log_probs is None

    def _alike(self, rows: Sequence[int]) -> Iterable[list[int]]:
        """``rows`` by what they must have in common to be drawn and scored in one call."""
        groups: dict[Hashable, list[int]] = {}
        for row in rows:
            groups.setdefault(kind(self._answers[row]), []).append(row)
        return groups.values()

    def _several_each(self, rows: Sequence[int]) -> dict[int, list[Draw] | Looked | Exception]:
        """Tokens for rows of one kind, up to the ends of their steps."""
        some = self._answers[rows[0]]
        key = kind(some)
        if key not in self._kinds:
            if len(self._kinds) >= _KINDS:
                self._kinds.pop(next(iter(self._kinds)))
            self._kinds[key] = MultiStep(self.lane, some, self._vocab_size, self._ahead)
        try:
            written = self._kinds[key].write(rows, self._answers)
        except (SteerError, RuntimeError) as error:
            return dict.fromkeys(rows, self._worded(error, rows))
        replies: dict[int, list[Draw] | Looked | Exception] = {}
        for row, (draws, valid) in written.items():
            # One whose first token was known has one more than the passes that there were room for.
            draws = draws[: self._answers[row].room]
            replies[row] = draws if draws or valid else self._broken(row)
            # What it has read beyond the end of the step is forgotten.
            self.lane.roll_back(row, len(self._answers[row].transcript) + len(draws))
        return replies

    def _worded(self, error: Exception, rows: Sequence[int]) -> SteerError:
        """``error`` in words, if memory has run out; else raises it. Read marks are as before."""
        if isinstance(error, SteerError):
            return error
        if not isinstance(error, torch.OutOfMemoryError) and "allocate" not in str(error):
            raise error
        needed = sum(self.lane.pending(row) + self.lane.read_mark(row) for row in rows)
        return out_of_memory(error, self._writer, self.lane.model.device, needed, len(rows))

    def _broken(self, row: int) -> BrokenModelError:
        return BrokenModelError(
            f"the {self._writer} model returned logits that are NaN or not finite at "
            f"{self._answers[row].place}: check its weights, or load it in "
            "float32 or bfloat16 if it was loaded in float16"
        )
