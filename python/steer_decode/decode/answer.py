"""One answer in the making: what it asks and keeps.

An answer runs no model. It is a generator that yields events for the reader and requests for the
engines; the scheduler brings the replies, for one answer or for many that advance together. So the
rules of routing are written once, here; what becomes of a step that does not stay is in
``revise.py``.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, NamedTuple

from ..core.events import Event, HandOver, StepClosed
from ..core.requests import Draw, Look, Looked, Request, Write
from ..core.trace import Step
from ..core.transcript import Writer, other
from ..policies import REDO, RESTART, Mend, StepStart, Verdict
from .guard import consult
from .revise import again, grade, held_back, kept_of, lead, mend
from .speculate import Settled, speculate
from .written import Written


class Judge(NamedTuple):
    """A step that has closed, for the policy to judge.

    Told: a verdict, which says who writes the next step, or this one again.
    """

    step: Step


Making = Generator[Event | Request | Judge, Any, None]


class Answer(Written):
    """One answer, written step by step; arguments as :class:`Written`."""

    def run(self) -> Making:
        """Write the answer: a generator of events and requests.

        Events want no reply; each request wants the engine's.
        """
        running = self._run()
        return held_back(running, lambda: self.restarted) if self.policy.restarts else running

    def _run(self) -> Making:
        index, redo = 0, False
        writer: Writer = "small"
        mended: Step | None = None  # what stays of the draft that was written last
        self._settled: Settled | None = None
        while not self.trace.stop_reason:
            begin, drawn = time.perf_counter(), None
            step = mended or Step(index, writer)
            self.begin(step)
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
            verdict: Verdict = (yield Judge(step)) if step.closed else Verdict(step.writer)
            word: Any = verdict.what
            if verdict.posterior is not None:
                step.posterior = verdict.posterior
            mends = isinstance(word, Mend)
            if redo and (word == REDO or mends):
                raise again(self.policy, index)
            redo, mended = word == REDO or (mends and word.rest), None
            if redo or mends or word == RESTART:
                self._settled = None
            if word == RESTART:
                self.restart()
                index, writer = 0, "large"
            elif mends:
                mended = kept_of(self.policy, step, word)
                self.take_back(step, start + word.at)
                self.detokenizer.reset(mark)
            elif redo:
                self.take_back(step, start)
                self.detokenizer.reset(mark)
                writer = other(step.writer)
            else:
                index, writer = index + 1, word
            yield StepClosed(step)

    def _choose(self, step: Step) -> Generator[Request, Any, Draw | None]:
        """Let the policy choose the step's writer, with a look of the small model if it wants one.

        Returns the token that was drawn with the look, if the small model is to write.
        """
        looked: Looked | None = None
        told: bool | None = None
        pending = foreign = 0
        if self.policy.looks_ahead:
            self._settled = None  # the small model is about to read
            pending = len(self.transcript) - self.transcript.read["small"]
            foreign = self.transcript.foreign("small")
            looked = yield Look()
            assert looked is not None
            told = looked.goes_on
            step.before = looked.value if told is None else None
        start = StepStart(
            step.index, step.writer, self._seed, looked and looked.stats, self.trace, step.before
        )
        if told is None:
            step.writer = consult(self.policy, start)
        else:  # by the policy's own rule, where the model runs
            step.writer = "small" if told else "large"
        if step.writer == "small":
            step.prefilled = foreign
            return looked and looked.draw
        step.probed = pending
        return None

    def _write(self, step: Step, drawn: Draw | None) -> Making:
        """Write one step to its end, or to the end of the answer."""
        if self.over(step):
            return  # The token that mended it ended it.
        step.prefilled += self.transcript.foreign(step.writer)
        if drawn is not None:
            yield self.append(step, drawn, step.writer)
        if step.writer == "small" and not step.token_ids:
            yield from lead(self, step)
        if step.writer == "large" and self.drafting:
            self._settled = yield from speculate(self, self.drafting, step, self._settled)
            return
        self._settled = None
        request = Write(step.writer)
        while not self.over(step):
            for draw in (yield request):
                yield self.append(step, draw, step.writer)
                if self.over(step):
                    break
        self.transcript.unread(len(self.transcript))  # what was drawn beyond the end
