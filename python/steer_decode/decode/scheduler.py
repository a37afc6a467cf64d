"""Conversations that advance together: each model runs once a turn, on the rows that ask for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from steer_kernels import Packed, unpack

from ..core.boundary import StepBoundary
from ..core.events import Event, TextDelta
from ..core.requests import Ask, Draw, Forget, Grade, Judge, Reply
from ..core.sampling import Sampling
from ..core.trace import Step
from ..core.transcript import Transcript, Writer
from ..engines.hf.gradients import without_gradients
from ..engines.hf.grading import ask, grade
from ..engines.hf.lane import Lane, lanes_of
from ..engines.hf.multi_step import RunAhead
from ..engines.hf.sampler import Drawer
from ..errors import BrokenModelError, OutOfMemoryError, SteerError
from ..models.pair import Pair
from ..policies import Policy
from .answer import Conversation
from .guard import consult, read_signal

_T = TypeVar("_T")
_TOKEN, _VALID = int(Packed.TOKEN), int(Packed.VALID)


def make_lanes(pair: Pair, conversations: Sequence[Conversation]) -> dict[Writer, Lane]:
    """A lane for each model over the transcripts of ``conversations``."""
    transcripts = [c.transcript for c in conversations]
    limit = max(c.limit for c in conversations)
    return lanes_of(pair, transcripts, limit)


def _watermark(lanes: dict[Writer, Lane], row: int, transcript: Transcript, writer: Writer) -> int:
    # What a model has read beyond the end of a step is about to be forgotten.
    return min(lanes[writer].watermark(row), len(transcript))


class Batch:
    """Runs conversations over two lanes.

    Args:
        pair: the two models.
        policy: of all conversations, started; its signal is read off each row's raw logits.
        conversations: the rows of both lanes, in order.
        sampling: how tokens are drawn.
        turns: for each writer, tokens between two looks of the host; see ``run_ahead``. Processors
            look at every token, so with them it is one.
        lanes: to go on with; new ones by default.
    """

    def __init__(
        self,
        pair: Pair,
        policy: Policy,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        boundary: StepBoundary,
        turns: dict[Writer, int],
        lanes: dict[Writer, Lane] | None = None,
    ) -> None:
        self._policy = policy
        self._conversations = conversations
        self._vocab_size = vocab_size = pair.vocab_size
        self._drawer = Drawer(sampling, vocab_size)
        # Of each row; a pass is shared evenly by the rows that it runs over.
        self.seconds = [0.0] * len(conversations)
        self.lanes = lanes or make_lanes(pair, conversations)
        for row, conversation in enumerate(conversations):
            conversation.watermark = partial(_watermark, self.lanes, row, conversation.transcript)
        self._running = [c.run() for c in conversations]
        # One for all tokens: as a decorator it is slower.
        self._inference = without_gradients(pair.small, pair.large)
        self._asks: dict[int, Ask] = {}
        self._grades: dict[int, Grade] = {}  # drafts that wait for the large model
        self._closed: dict[int, Step] = {}  # steps that wait for their verdict
        # Of rows that have been shown logits: whose, and the token that was drawn from them.
        self._drawn: dict[int, tuple[Writer, list[Draw]]] = {}
        self._ahead: dict[Writer, RunAhead] = {}
        if not any(c.hooks.processors for c in conversations):
            for w, n in turns.items():
                if n > 1 and self.lanes[w].runs_ahead:
                    table = boundary.token_classes(pair.eos_ids, vocab_size)
                    self._ahead[w] = RunAhead(self.lanes[w], policy, sampling, table, vocab_size, n)

    def run(self) -> Iterator[tuple[int, Event]]:
        """Yields (row, event) until every answer is complete."""
        for row in range(len(self._running)):
            yield from self._advance(row, None)
        while self._asks or self._grades or self._closed:
            # In this order, so that a row whose step has just closed or was refused joins at once.
            yield from self._write("small")
            if self._grades and len(self._grades) >= len(self._asks):
                # Drafts wait while more answers are being written: a pass over many costs little
                # more than one over few.
                yield from self._judge_drafts()
            yield from self._write("large")
            if self._closed and not self._asks and not self._grades:
                yield from self._judge_round()

    def _write(self, writer: Writer) -> Iterator[tuple[int, Event]]:
        """One turn of a model, over the rows that ask for it."""
        rows = [row for row, ask in self._asks.items() if ask.writer == writer]
        if not rows:
            return
        asks = [self._asks.pop(row) for row in rows]
        begin = time.perf_counter()
        replies = self._replies(writer, rows, asks)
        share = (time.perf_counter() - begin) / len(rows)
        for row, reply in replies:
            self.seconds[row] += share
            yield from self._advance(row, reply)
            if writer in self._ahead:  # it may have read beyond the end of the step
                length = len(self._conversations[row].transcript)
                self.lanes[writer].roll_back(row, length)

    def _judge_round(self) -> Iterator[tuple[int, Event]]:
        """Every answer waits at the end of a step: judges those that are furthest behind.

        A step 0 that was taken back closes after the others', and is judged before they go on.
        """
        index = min(step.index for step in self._closed.values())
        round_ = {row: step for row, step in self._closed.items() if step.index == index}
        steps = list(round_.values())
        verdicts = consult(
            self._policy,
            f"after step {index}",
            lambda: list(self._policy.after_round(steps)),
        )
        if len(verdicts) != len(steps):
            raise SteerError(
                f"policy {self._policy.name!r} answered {len(verdicts)} times for {len(steps)} "
                f"steps after step {index}: it must answer once for each"
            )
        for row, verdict in zip(round_, verdicts, strict=True):
            del self._closed[row]
            yield from self._advance(row, verdict)

    def _advance(self, row: int, reply: Reply | None) -> Iterator[tuple[int, Event]]:
        """Runs one conversation to its next ask, or to its end."""
        running, policy = self._running[row], self._policy
        while True:
            begin = time.perf_counter()
            try:
                item = running.send(reply)  # type: ignore[arg-type]
            except StopIteration:
                return
            finally:
                self.seconds[row] += time.perf_counter() - begin
            reply = None
            if isinstance(item, TextDelta):
                yield row, item
                continue
            if isinstance(item, Ask):
                writer, drawn = self._drawn.pop(row, (None, []))
                if item.draw and item.writer == writer:
                    reply = drawn
                    continue
                self._asks[row] = item
                return
            if isinstance(item, Grade):
                self._grades[row] = item
                return
            if isinstance(item, Judge):
                step = item.step
                if policy.in_rounds:
                    self._closed[row] = step
                    return
                where = f"after step {step.index}"
                trace = self._conversations[row].trace
                reply = consult(policy, where, partial(policy.judge, step, trace))
                continue
            if isinstance(item, Forget):
                for lane in self.lanes.values():
                    lane.roll_back(row, len(self._conversations[row].transcript))
                continue
            yield row, item

    def _judge_drafts(self) -> Iterator[tuple[int, Event]]:
        """The large model reads the drafts that wait, all in a pass."""
        lane, vocab_size = self.lanes["large"], self._vocab_size
        grades, self._grades = self._grades, {}
        for question in dict.fromkeys(wanted.question for wanted in grades.values()):
            rows = [row for row, wanted in grades.items() if wanted.question == question]
            begin = time.perf_counter()
            if question is None:
                counts = [grades[row].tokens for row in rows]
                graded = self._guarded("large", rows, grade, lane, rows, counts, vocab_size)
            else:
                graded = self._guarded("large", rows, ask, lane, rows, question, vocab_size)
            share = (time.perf_counter() - begin) / len(rows)
            for row in rows:
                reply = graded[row]
                if reply is None:
                    raise self._broken("large", row)
                self.seconds[row] += share
                yield from self._advance(row, reply)

    def _replies(
        self, writer: Writer, rows: Sequence[int], asks: Sequence[Ask]
    ) -> list[tuple[int, Reply]]:
        draws = [ask.draw for ask in asks]
        ahead = self._ahead.get(writer)
        if ahead is None:
            return list(zip(rows, self._reply(writer, rows, draws), strict=True))
        # To look, or for a single token, it does not run ahead.
        writing = [r for r, ask in zip(rows, asks, strict=True) if ask.draw and not ask.one]
        rest = [row for row in rows if row not in writing]
        replies: list[tuple[int, Reply]] = []
        if rest:
            wanted = dict(zip(rows, draws, strict=True))
            shown = self._reply(writer, rest, [wanted[row] for row in rest])
            replies += zip(rest, shown, strict=True)
        if writing:
            written = self._guarded(writer, writing, ahead.write, writing, self._conversations)
            for row, (drawn, valid) in written.items():
                if not drawn and not valid:
                    raise self._broken(writer, row)
                replies.append((row, drawn))
        return replies

    def _reply(self, writer: Writer, rows: Sequence[int], draws: Sequence[bool]) -> list[Reply]:
        conversations = [self._conversations[row] for row in rows]
        logits, packed = self._read(writer, rows, conversations)
        found: list[list[float]] = packed.tolist()
        for row, numbers in zip(rows, found, strict=True):
            if not numbers[_VALID]:
                raise self._broken(writer, row)
        values = read_signal(self._policy, packed, found, conversations)
        replies: list[Reply] = []
        for i, (row, numbers) in enumerate(zip(rows, found, strict=True)):
            processed = conversations[i].hooks.processors
            if draws[i]:
                token = int(numbers[_TOKEN])
                if processed:
                    token = self._drawer.draw_processed(logits[i : i + 1], conversations[i])
                replies.append([Draw(token, values[i])])
                continue
            replies.append(unpack(packed[i : i + 1]).stats)
            if not processed and writer not in self._ahead:
                # If it is to write, it asks for that next: one turn less, and no call.
                self._drawn[row] = writer, [Draw(int(numbers[_TOKEN]), values[i])]
        return replies

    def _guarded(
        self, writer: Writer, rows: Sequence[int], run: Callable[..., _T], *arguments: object
    ) -> _T:
        """Runs a model; says which, if memory runs out. The watermarks then are as before."""
        try:
            return run(*arguments)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not isinstance(error, torch.OutOfMemoryError) and "allocate" not in str(error):
                raise
            lane = self.lanes[writer]
            needed = sum(lane.pending(row) + lane.watermark(row) for row in rows)
            raise OutOfMemoryError(
                f"the {writer} model ran out of memory on {lane.model.device} at a context of "
                f"{needed} tokens over {len(rows)} rows: lower max_new_tokens or the number of "
                "prompts, or load the models in bfloat16"
            ) from error

    def _read(
        self, writer: Writer, rows: Sequence[int], conversations: Sequence[Conversation]
    ) -> tuple[Tensor, Tensor]:
        """Raw logits of ``rows``; a token of each and the statistics of its logits, packed."""
        with self._inference:
            logits = self._guarded(writer, rows, self.lanes[writer].catch_up, rows)
            return logits, self._drawer.draw(logits, conversations)

    def _broken(self, writer: Writer, row: int) -> BrokenModelError:
        return BrokenModelError(
            f"the {writer} model returned logits that are NaN or not finite at "
            f"{self._conversations[row].place}: check its weights, or load it in "
            "float32 or bfloat16 if it was loaded in float16"
        )
