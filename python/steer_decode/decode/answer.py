"""One answer in the making: what to ask of the models next, and what to make of what they say.

An answer runs no model. It is a generator that yields events for the reader and requests for the
engines; the scheduler brings the replies, for one answer or for many that advance together. So the
rules of routing are written once, here; what becomes of a step that does not stay is in
``revise.py``.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Generator
from typing import Any, Literal, NamedTuple

from ..core.boundary import Detokenizer, decode
from ..core.events import Event, HandOver, StepClosed, TextDelta
from ..core.requests import Draw, Hooks, Look, Looked, Request, Write
from ..core.sampling import Sampling
from ..core.token_text import TokenTexts
from ..core.trace import Step, Trace
from ..core.transcript import WRITERS, Transcript, Writer, other
from ..policies import REDO, RESTART, Mend, Policy, StepStart
from .guard import consult
from .revise import again, grade, held_back, kept_of, mend, restart, take_back
from .routing import Routing


class Judge(NamedTuple):
    """A step has closed: who writes the next one, or this one again? Told: the policy's word."""

    step: Step


Making = Generator[Event | Request | Judge, Any, None]


class Answer:
    """The state of one answer; what engines see of it is a :class:`~..core.requests.Row`.

    Args:
        routing: the two models, and where steps and answers end.
        policy: who writes next, started.
        transcript: of which the last token is the last of the prompt.
        limit: most tokens of the transcript.
        sampling: how tokens are drawn.
        seed: of this answer's draws, and of policies that draw.
        hooks: processors and stopping criteria.

    Attributes:
        trace: its steps so far.
        written, discarded: tokens by writer, written at all and taken back again.
        single: the next token is written alone.
    """

    def __init__(
        self,
        routing: Routing,
        policy: Policy,
        transcript: Transcript,
        limit: int,
        sampling: Sampling,
        seed: int,
        hooks: Hooks,
    ) -> None:
        self.routing, self.policy, self.transcript = routing, policy, transcript
        self.sampling, self.hooks, self.limit = sampling, hooks, limit
        self.signal, self.boundary, self.ends = policy.signal, routing.boundary, routing.ends
        self._seed = seed
        self._random = random.Random(seed)
        self._uniforms: deque[float] = deque()
        self._texts = TokenTexts.of(routing.pair.tokenizer)
        self.detokenizer = Detokenizer(routing.pair.tokenizer)
        ids = list(transcript.ids)
        prompt = decode(routing.pair.tokenizer, ids)
        self.trace = Trace(str(policy), policy.signal.name, ids, prompt=prompt)
        self.question = policy.question(routing.pair)
        self.written: dict[Writer, int] = dict.fromkeys(WRITERS, 0)
        self.discarded: dict[Writer, int] = dict.fromkeys(WRITERS, 0)
        self.restarted = False
        self.single = False
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
        """Most tokens that may be written now."""
        return 1 if self.single else self.limit - len(self.transcript)

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
        return f"token {len(self._step.token_ids)} of step {self._step.index}"

    def run(self) -> Making:
        """Writes the answer: yields events, which want no reply, and requests, which do."""
        running = self._run()
        return held_back(running, lambda: self.restarted) if self.policy.restarts else running

    def _run(self) -> Making:
        index, redo = 0, False
        writer: Writer = "small"
        mended: Step | None = None  # what stays of the draft that was written last
        while not self.trace.stop_reason:
            begin, drawn = time.perf_counter(), None
            self._step = step = mended or Step(index, writer)
            self._scan = self.boundary.scan(step.token_ids, self._texts)
            if not redo and mended is None:
                drawn = yield from self._choose(step)
            if self._pen not in ("", step.writer):
                foreign = self.transcript.foreign(step.writer)
                yield HandOver(index, step.writer, foreign + step.prefilled)
            self.trace.steps.append(step)
            mark, start = self.detokenizer.mark(), len(self.transcript) - step.inherited
            if mended is not None:
                yield from mend(self, step, rest=redo)
            yield from self._write(step, drawn)
            texts = self.boundary.texts(step.token_ids)
            step.counted = self.policy.counted(texts, self.trace.prompt)
            if step.closed and step.writer == "small":
                yield from grade(self, step)
            step.milliseconds = 1e3 * (time.perf_counter() - begin)
            word: Any = (yield Judge(step)) if step.closed else step.writer
            mends = isinstance(word, Mend)
            if redo and (word == REDO or mends):
                raise again(self.policy, index)
            redo, mended = word == REDO or (mends and word.rest), None
            if word == RESTART:
                restart(self)
                index, writer = 0, "large"
            elif mends:
                mended = kept_of(self.policy, step, word)
                take_back(self, step, start + word.at)
                self.detokenizer.reset(mark)
            elif redo:
                take_back(self, step, start)
                self.detokenizer.reset(mark)
                writer = other(step.writer)
            else:
                index, writer = index + 1, word
            yield StepClosed(step)

    def _choose(self, step: Step) -> Generator[Request, Any, Draw | None]:
        """Lets the policy choose the step's writer, with a look of the small model if it wants one.

        Returns the token that was drawn with the look, if the small model is to write.
        """
        looked: Looked | None = None
        pending = foreign = 0
        if self.policy.looks_ahead:
            pending = len(self.transcript) - self.transcript.read["small"]
            foreign = self.transcript.foreign("small")
            looked = yield Look()
            step.before = looked.value
        start = StepStart(
            step.index, step.writer, self._seed, looked and looked.stats, self.trace, step.before
        )
        step.writer = consult(
            self.policy, f"before step {step.index}", lambda: self.policy.before_step(start)
        )
        if step.writer == "small":
            step.prefilled = foreign
            return looked and looked.draw
        step.probed = pending
        return None

    def _write(self, step: Step, drawn: Draw | None) -> Making:
        """Writes one step to its end, or to the end of the answer."""
        if self.over(step):
            return  # The token that mended it ended it.
        step.prefilled += self.transcript.foreign(step.writer)
        if drawn is not None:
            yield self.append(step, drawn, step.writer)
        request = Write(step.writer)
        while not self.over(step):
            for draw in (yield request):
                yield self.append(step, draw, step.writer)
                if self.over(step):
                    break
        self.transcript.unread(len(self.transcript))  # what was drawn beyond the end

    def over(self, step: Step) -> bool:
        """Whether nothing more belongs to ``step``."""
        return step.closed or bool(self.trace.stop_reason)

    def append(self, step: Step, draw: Draw, writer: Writer) -> TextDelta:
        token, value = draw
        if self._uniforms:
            self._uniforms.popleft()
        self._pen = writer
        self.transcript.append(token, writer)
        self.written[writer] += 1
        step.token_ids.append(token)
        step.values.append(value)
        text = self.detokenizer.push(token)
        step.ended = token in self.ends
        step.closed = self._scan.push(token) or step.ended
        self.trace.stop_reason = "eos" if step.ended else self._cut()
        if self.trace.stop_reason:
            text += self.detokenizer.flush()
        step.text += text
        step.ends.append(len(step.text))
        return TextDelta(text, token, writer, step.index)

    def _cut(self) -> str:
        """Why the answer cannot go on, though no model has ended it; "" if it can."""
        if len(self.transcript) >= self.limit:
            full = self.limit == self.routing.pair.max_length
            return "context" if full else "max_new_tokens"
        if self.hooks.criteria and self.hooks.criteria(self.transcript.ids):
            return "criteria"
        return ""
