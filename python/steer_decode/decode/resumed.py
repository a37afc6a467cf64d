"""An answer that was broken off, and goes on.

It is written again from its beginning, by engines that give what is recorded while there is any and
then ask the models. So whatever an answer keeps, its policy's memory and its random numbers too, is
what it was; nothing that is recorded is drawn or read again, but for the text that the models have
to read once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..core.cost import Usage
from ..core.events import RoutedOutput
from ..core.requests import Draw, Graded, Looked, Question, Row
from ..core.sampling import Sampling
from ..core.trace import Step
from ..core.transcript import WRITERS, Transcript, Writer
from ..engines.base import Engine, Replies
from ..errors import SteerError
from .routing import Routing, open_engines
from .stream import RoutedStream

GOES_ON = ("server", "interrupted", "error")  # why an answer has ended that may go on
_WAY = "give the router and the options with which it was begun"


class RecordedSteps:
    """What is recorded of an answer and yet to give.

    Args:
        steps: of its trace, those that were taken back among them.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = [step for step in steps if step.token_ids or step.before is not None]
        self._at = self._token = 0
        self._judged = -1  # of which step the grades have been given
        self._over = False  # a model has written more

    @property
    def step(self) -> Step | None:
        """The step that is given now; None at the end."""
        while self._at < len(self._steps):
            step = self._steps[self._at]
            self._token = max(self._token, step.inherited)
            if self._token < _known(step):
                return step
            if self._at + 1 == len(self._steps):
                return None
            self._at, self._token = self._at + 1, 0
        return None

    def judged(self) -> Step | None:
        """The step whose end has just been given, once."""
        if self._over or self._judged == self._at or self._at >= len(self._steps):
            return None
        step, self._judged = self._steps[self._at], self._at
        return step if self._token == _known(step) else None

    def end(self) -> None:
        """A model is about to write more."""
        self._over = True

    def take(self, writer: Writer, answer: Row) -> Draw:
        """The next token, of one model.

        Raises:
            SteerError: the answer does not go as it is recorded.
        """
        step, at = self.step, self._token
        assert step is not None
        if answer.step_ids != step.token_ids[:at] or step.writers[at] != writer:
            raise SteerError(
                f"the trace does not go on as this router would at {answer.place}, where "
                f"{step.writers[at]} wrote token {at} of step {step.index}: {_WAY}"
            )
        self._token += 1
        if answer.sampling.temperature:
            answer.uniforms(1)  # which is used up as the token is appended
        return Draw(step.token_ids[at], step.values[at])


def _known(step: Step) -> int:
    """Tokens of a step whose values are there: an interrupt may have fallen between the two."""
    return min(len(step.token_ids), len(step.values))


class ResumedEngine:
    """An engine that first gives what is recorded.

    Then it gives what ``engine`` has.

    It has one row.

    Args:
        writer: which of the two models it is.
        engine: without rows.
        recorded: the same for both models.
        before: what the model had cost when the answer was broken off.
        told: the gate has looked before steps, and only who wrote is known of that.
    """

    def __init__(
        self,
        writer: Writer,
        engine: Engine,
        recorded: RecordedSteps,
        before: Usage,
        told: bool = False,
    ) -> None:
        self._writer, self._engine, self._recorded = writer, engine, recorded
        self._before, self._told = before, told
        self._asked = False  # whether the model has been

    def open(self, row: int, answer: Row) -> None:
        self._answer = answer
        self._engine.open(row, answer)

    def close(self, row: int) -> None:
        self._engine.close(row)

    def look(self, rows: Sequence[int]) -> Replies[Looked]:
        return self.write((), rows)  # type: ignore[return-value]

    def write(
        self, rows: Sequence[int], looking: Sequence[int] = ()
    ) -> Replies[list[Draw] | Looked]:
        step, text = self._recorded.step, self._answer.transcript
        if step is None:
            self._recorded.end()
            return self._live().write(rows, looking)
        if looking and step.before is None and not self._told:
            return [SteerError(f"the trace has no look before step {step.index}: {_WAY}")]
        if looking:
            text.read[self._writer] = len(text)
            if step.before is None:
                return [Looked(math.nan, None, None, step.writer == "small")]
            return [Looked(step.before or 0.0, None, None)]
        try:
            draw = self._recorded.take(self._writer, self._answer)
        except SteerError as error:
            return [error]
        text.read[self._writer] = len(text)
        return [[draw]]

    def read(self, rows: Sequence[int], counts: Sequence[int]) -> Replies[Graded]:
        step, n = self._recorded.judged(), counts[0]
        if step is None or not step.graded:
            return self._live().read(rows, counts)
        self._read()
        return [Graded(step.graded[-n:], step.likeliest[-n:])]

    def verify(self, rows: Sequence[int]) -> Replies[list[Draw]]:
        return self._live().verify(rows)

    def ask(self, rows: Sequence[int], question: Question) -> Replies[Graded]:
        step = self._recorded.judged()
        if step is None or not step.answers:
            return self._live().ask(rows, question)
        self._read()
        return [Graded(step.answers, [])]

    def _read(self) -> None:
        text = self._answer.transcript
        text.read[self._writer] = len(text)

    def _live(self) -> Engine:
        """The engine itself, which has read nothing of what is recorded."""
        if not self._asked:
            self._asked = True
            self._answer.transcript.read[self._writer] = 0
        return self._engine

    def usage(self, row: int) -> Usage:
        now = self._engine.usage(row)
        summed = {f.name: getattr(now, f.name) + getattr(self._before, f.name) for f in fields(now)}
        return Usage(**summed)

    @property
    def held_bytes(self) -> int:
        return self._engine.held_bytes


def resume(routing: Routing, broken: RoutedOutput, options: Mapping[str, Any]) -> RoutedStream:
    """Go on with a broken answer; see :meth:`Router.resume`."""
    trace = broken.trace
    if trace.stop_reason not in GOES_ON:
        raise SteerError(
            f"the answer has ended ({trace.stop_reason or 'for no reason'}): only one that was "
            f"broken off ({', '.join(GOES_ON)}) can be gone on with"
        )
    if trace.policy != routing.policy.label:
        raise SteerError(
            f"the answer was written by router {trace.policy!r}, and this one is "
            f"{routing.policy.label!r}: {_WAY}"
        )
    if routing.policy.drafting is not None:
        raise SteerError(
            f"router {routing.policy.name!r} verifies drafts, of which a trace does not tell: an "
            "answer of it cannot be gone on with, so ask again"
        )
    rest = dict(options)
    seed, length = rest.pop("seed", 0), rest.pop("max_new_tokens", 1024)
    ids = routing.pair.checked(list(trace.prompt_ids))
    recorded = RecordedSteps(trace.steps)
    plain = open_engines(routing.pair, routing.ahead, routing.pair.max_length)
    before: dict[Writer, Usage] = {"small": broken.cost.small, "large": broken.cost.large}
    engines: dict[Writer, Engine] = {
        writer: ResumedEngine(writer, plain[writer], recorded, before[writer], routing.told)
        for writer in WRITERS
    }
    sampling = Sampling(**rest)
    return RoutedStream(routing, Transcript(ids), length, sampling, seed, engines=engines)
