"""One answer in the making: what to ask of the models next, and what to make of what they say.

A conversation runs no model. It is a generator that yields events for the reader and asks for the
models; the scheduler answers the asks, for one conversation or for many that advance together. So
the rules of routing are written once, here.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Literal

import torch

from steer_kernels import LogitStats

from ..core.boundary import Detokenizer, StepBoundary, decode
from ..core.events import Event, HandOver, StepClosed, TextDelta
from ..core.requests import Ask, Forget, Grade, Graded, Hooks, Judge, Reply
from ..core.token_text import TokenTexts
from ..core.trace import Step, Trace
from ..core.transcript import WRITERS, Transcript, Writer, other
from ..errors import SteerError
from ..models.pair import Pair
from ..policies import REDO, RESTART, Mend, Policy, StepStart
from .guard import consult, read_look
from .holding import held_back


class Conversation:
    """The state of one answer.

    Args:
        pair: the two models and their tokenizer.
        policy: who writes next.
        boundary: where a step closes.
        transcript: of which the last token is the last of the prompt.
        limit: most tokens of the transcript.
        seed: of this answer's draws, and of policies that draw.
        hooks: processors and stopping criteria.
    """

    def __init__(
        self,
        pair: Pair,
        policy: Policy,
        boundary: StepBoundary,
        transcript: Transcript,
        limit: int,
        seed: int,
        hooks: Hooks,
    ) -> None:
        self._pair = pair
        self._policy = policy
        self._boundary = boundary
        self._seed = seed
        self._random = random.Random(seed)
        self._uniforms: deque[float] = deque()
        self._detokenizer = Detokenizer(pair.tokenizer)
        self._eos_ids = pair.eos_ids
        self._texts = TokenTexts.of(pair.tokenizer)
        self.transcript = transcript
        self.limit = limit
        self.hooks = hooks
        ids = list(transcript.ids)
        self.trace = Trace(str(policy), policy.signal.name, ids, prompt=decode(pair.tokenizer, ids))
        self._question = policy.question(pair)
        # How much of the transcript each model has read; the batch says.
        self.watermark: Callable[[Writer], int] = lambda writer: 0
        self.written: dict[Writer, int] = dict.fromkeys(WRITERS, 0)
        self.discarded: dict[Writer, int] = dict.fromkeys(WRITERS, 0)
        self._restarted = False
        self._pen: Writer | Literal[""] = ""  # who wrote the last token, one taken back included

    def uniforms(self, n: int) -> list[float]:
        """The next ``n`` uniform numbers in [0, 1) of this answer, whoever writes.

        Each token that is appended uses one up; those that were looked at in vain come again.
        """
        while len(self._uniforms) < n:
            self._uniforms.append(self._random.random())
        return list(self._uniforms)[:n]

    @property
    def room(self) -> int:
        """Tokens that the answer may still take."""
        return self.limit - len(self.transcript)

    @property
    def step_ids(self) -> list[int]:
        """The tokens of the open step."""
        return self._step.token_ids

    @property
    def said_something(self) -> bool:
        """Whether the open step holds a letter or a digit."""
        return self._scan.said

    @property
    def place(self) -> str:
        """Where in the answer the next token stands, for messages."""
        step = self._step
        return f"token {len(step.token_ids)} of step {step.index}"

    def run(self) -> Generator[Event | Ask | Grade | Judge | Forget, Reply, None]:
        """Writes the answer: yields events, which want no reply, and asks, which do."""
        running = self._run()
        return held_back(running, lambda: self._restarted) if self._policy.restarts else running

    def _run(self) -> Generator[Event | Ask | Grade | Judge | Forget, Reply, None]:
        index, redo = 0, False
        writer: Writer = "small"
        mended: Step | None = None  # what stays of the draft that was written last
        while not self.trace.stop_reason:
            begin = time.perf_counter()
            self._step = step = mended or Step(index, writer)
            self._scan = self._boundary.scan(step.token_ids, self._texts)
            if not redo and mended is None:
                yield from self._look_before(step)
            if self._pen not in ("", step.writer):
                yield HandOver(index, step.writer, self._unread(step.writer) + step.prefilled)
            self.trace.steps.append(step)
            mark, start = self._detokenizer.mark(), len(self.transcript) - step.inherited
            if mended is not None:
                yield from self._mend(step, rest=redo)
            yield from self._write(step)
            texts = self._boundary.texts(step.token_ids)
            step.counted = self._policy.counted(texts, self.trace.prompt)
            if step.closed and step.writer == "small":
                yield from self._grade(step)
            step.milliseconds = 1e3 * (time.perf_counter() - begin)
            verdict: Any = (yield Judge(step)) if step.closed else step.writer
            if redo and (verdict == REDO or isinstance(verdict, Mend)):
                raise SteerError(
                    f"policy {self._policy.name!r} took step {index} back twice: "
                    "a step that was written again has to stay"
                )
            redo, mended = verdict == REDO or (isinstance(verdict, Mend) and verdict.rest), None
            if verdict == RESTART:
                self._restart()
                index, writer = 0, "large"
            elif isinstance(verdict, Mend):
                mended = self._until(step, verdict)
                self._take_back(step, start + verdict.at)
                self._detokenizer.reset(mark)
            elif redo:
                self._take_back(step, start)
                self._detokenizer.reset(mark)
                writer = other(step.writer)
            else:
                index, writer = index + 1, verdict
            if step.discarded:
                yield Forget()  # Before the reader sees it, who may go away.
            yield StepClosed(step)

    def _grade(self, step: Step) -> Generator[Grade, Reply, None]:
        """Has a draft of the small model read by the large one, if the policy wants that."""
        question, reply = self._question, None
        if question is not None:
            # A context that is too full for the question leaves the draft without an answer.
            if len(self.transcript) + len(question.ids) <= self._pair.max_length:
                reply = yield Grade(len(step.token_ids), question)
                assert isinstance(reply, Graded)
                step.answers = reply.log_probs
        elif self._policy.grades and step.unread and self._policy.wants_grade(step):
            reply = yield Grade(step.unread)
            assert isinstance(reply, Graded)
            step.graded, step.likeliest = reply

    def _until(self, step: Step, mend: Mend) -> Step:
        """The start of a step that takes the place of ``step``, one of whose tokens is refused."""
        at = mend.at
        first = len(step.token_ids) - step.unread
        if not first <= at < len(step.token_ids):
            raise SteerError(
                f"policy {self._policy.name!r} wants token {at} of step {step.index} mended: it "
                f"must be one of {first} to {len(step.token_ids) - 1}, which {step.writer} wrote "
                "since the step was mended last"
            )
        step.refused = at
        return step.until(at, other(step.writer) if mend.rest else step.writer)

    def _mend(self, step: Step, rest: bool) -> Generator[Event | Ask, Reply, None]:
        """Shows what stays of the draft again, and has the other model write the next token.

        With ``rest`` that is the step's writer, who is about to go on.
        """
        for token, author in zip(step.token_ids, step.writers, strict=True):
            text = self._detokenizer.push(token)
            step.text += text
            step.ends.append(len(step.text))
            yield TextDelta(text, token, author, step.index)
        if rest:
            return
        writer = other(step.writer)
        foreign = self._unread(writer)
        step.prefilled += foreign
        yield HandOver(step.index, writer, foreign)
        drawn = yield Ask(writer, draw=True, one=True)
        assert isinstance(drawn, list)
        step.others.append(len(step.token_ids))
        yield self._append(step, *drawn[0], writer)
        if not self._over(step):
            yield HandOver(step.index, step.writer, self._unread(step.writer))

    def _unread(self, writer: Writer) -> int:
        """Tokens that ``writer`` has to read first and did not write itself."""
        return self.transcript.foreign(writer, self.watermark(writer))

    def _look_before(self, step: Step) -> Generator[Ask, Reply, None]:
        """Lets the policy choose the step's writer, with the small model's logits if it looks."""
        stats = None
        pending = foreign = 0
        if self._policy.looks_ahead:
            pending = len(self.transcript) - self.watermark("small")
            foreign = self._unread("small")
            reply = yield Ask("small", draw=False)
            assert isinstance(reply, LogitStats)
            stats = reply
            step.before = read_look(self._policy, stats, self)
        start = StepStart(step.index, step.writer, self._seed, stats, self.trace)
        step.writer = consult(
            self._policy, f"before step {step.index}", lambda: self._policy.before_step(start)
        )
        if step.writer == "small":
            step.prefilled = foreign
        else:
            step.probed = pending

    def _write(self, step: Step) -> Generator[Event | Ask, Reply, None]:
        """Writes one step to its end, or to the end of the answer."""
        if self._over(step):
            return  # The token that mended it ended it.
        step.prefilled += self._unread(step.writer)
        ask = Ask(step.writer, draw=True)
        while True:
            drawn = yield ask
            assert isinstance(drawn, list)
            for token, value in drawn:
                yield self._append(step, token, value, step.writer)
                if self._over(step):
                    return  # What was drawn beyond the end is forgotten.

    def _over(self, step: Step) -> bool:
        """Whether nothing more belongs to ``step``."""
        return step.closed or bool(self.trace.stop_reason)

    def _append(self, step: Step, token: int, value: float, writer: Writer) -> TextDelta:
        if self._uniforms:
            self._uniforms.popleft()
        self._pen = writer
        self.transcript.append(token, writer)
        self.written[writer] += 1
        step.token_ids.append(token)
        step.values.append(value)
        text = self._detokenizer.push(token)
        step.ended = token in self._eos_ids
        step.closed = self._scan.push(token) or step.ended
        self.trace.stop_reason = "eos" if step.ended else self._cut()
        if self.trace.stop_reason:
            text += self._detokenizer.flush()
        step.text += text
        step.ends.append(len(step.text))
        return TextDelta(text, token, writer, step.index)

    def _cut(self) -> str:
        """Why the answer cannot go on, though no model has ended it; "" if it can."""
        if self.room <= 0:
            return "context" if self.limit == self._pair.max_length else "max_new_tokens"
        if self.hooks.criteria:
            ids = torch.tensor([self.transcript.ids], device=self._pair.small.device)
            if bool(torch.as_tensor(self.hooks.criteria(ids, None)).all()):
                return "criteria"
        return ""

    def _take_back(self, step: Step, end: int) -> None:
        """Moves the transcript back to ``end`` tokens, within ``step``; the lanes follow."""
        step.discarded = True
        self.trace.stop_reason = ""
        for writer in WRITERS:
            self.discarded[writer] += self.transcript.writers[end:].count(writer)
        self.transcript.truncate(end)

    def _restart(self) -> None:
        """Moves the transcript back to the prompt; the lanes follow."""
        if self._restarted or not self._policy.restarts:
            reason = (
                "a second time" if self._restarted else "without saying that it restarts answers"
            )
            raise SteerError(
                f"policy {self._policy.name!r} answered 'restart' {reason} after step "
                f"{self._step.index}: only a policy with restarts = True may do so, and once"
            )
        for step in self.trace.kept:
            self._take_back(step, self.transcript.prompt_length)
        self._detokenizer = Detokenizer(self._pair.tokenizer)
        self._restarted = True
