"""A model behind a vLLM engine.

It keeps the contract of ``engines/base.py``. Each row has at most one call on its way. It asks for
the rest of the open step: to the first token that closes every step, to the end of the answer, or
to as many as there is room for. What comes is handed up as it comes, and cut where the step closes
by our own reading of it. The read mark tells whether what a call goes on with is still what stands
in the text; where it is not, the call is given up and the model is asked anew, and finds in its
prefix cache what it had read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.boundary import StepBoundary, StepScan
from ...core.cost import Pass, Usage
from ...core.requests import Draw, Graded, Looked, Question, Row
from ...core.shape import ModelShape
from ...core.signals import SIGNALS
from ...core.transcript import Transcript, Writer
from ...errors import BrokenModelError, SteerError
from ..base import Later, Replies
from .calls import Arrivals, Call, Carrier, Order

GATE = "needs the gate inside the server, which has all logits"
_SEEDS = 2**31


@dataclass(eq=False)
class _Going:
    """A call of a row, and how its tokens stand in the text.

    Attributes:
        call: on its way.
        look: only its first token is wanted, and it is not written yet.
        start: tokens of the transcript when it began.
        mark: where the read mark was left.
        known: tokens that the model had read of this text before, as far as we know.
        scan: of the open step, with the tokens that were handed up.
    """

    call: Call
    look: bool
    start: int
    mark: int
    known: int
    scan: StepScan


class VllmEngine:
    """An :class:`~..base.Engine` over calls to a vLLM engine.

    Args:
        writer: which of the two models it is.
        carrier: what brings calls to the model.
        arrivals: says when something has come, the same of both engines of a pair.
        shape: the sizes of the model, for its costs.
        vocab_size: ids that the tokenizer knows.
        session: the name of a transcript's conversation; the same for both models.
    """

    def __init__(
        self,
        writer: Writer,
        carrier: Carrier,
        arrivals: Arrivals,
        shape: ModelShape,
        vocab_size: int,
        session: Callable[[Transcript], str],
    ) -> None:
        self._writer, self._carrier, self._arrivals = writer, carrier, arrivals
        self._shape, self._vocab_size, self._session = shape, vocab_size, session
        self._later = Later(arrivals.wait)
        self._answers: dict[int, Row] = {}
        self._going: dict[int, _Going] = {}
        self._passes: dict[int, list[Pass]] = {}
        self._stops: dict[Hashable, tuple[int, ...]] = {}

    def open(self, row: int, answer: Row) -> None:
        self._give_up(row)
        self._answers[row], self._passes[row] = answer, []

    def close(self, row: int) -> None:
        self._give_up(row)
        self._answers.pop(row).transcript.read[self._writer] = 0
        del self._passes[row]

    def __del__(self) -> None:
        for going in self._going.values():
            going.call.drop()

    @property
    def held_bytes(self) -> int:
        return 0  # the server's own

    def usage(self, row: int) -> Usage:
        passes, going = self._passes[row], self._going.get(row)
        return Usage.of(self._shape, [*passes, *(_passes(going) if going else ())])

    def look(self, rows: Sequence[int]) -> Replies[Looked]:
        return self.write((), rows)  # type: ignore[return-value]

    def write(
        self, rows: Sequence[int], looking: Sequence[int] = ()
    ) -> Replies[list[Draw] | Looked]:
        every = [*rows, *looking]
        replies: dict[int, Any] = {}
        for row in every:  # all of them are sent before any is waited for
            try:
                self._go_on(row, row in looking)
            except SteerError as error:
                replies[row] = error
        return [replies[row] if row in replies else self._reply(row) for row in every]

    def read(self, rows: Sequence[int], counts: Sequence[int]) -> Replies[Graded]:
        return self._refused(rows, "log-probabilities of what another model wrote")

    def verify(self, rows: Sequence[int]) -> Replies[list[Draw]]:
        return self._refused(rows, "the verification of drafts")

    def ask(self, rows: Sequence[int], question: Question) -> Replies[Graded]:
        return self._refused(rows, "log-probabilities of answers to a question")

    def _refused(self, rows: Sequence[int], what: str) -> Replies[Any]:
        error = SteerError(
            f"{what} cannot be had of {self._carrier.name}: vLLM reads a prompt without its prefix "
            "cache for them; use a router that judges what was written, or load the models here"
        )
        return [error] * len(rows)

    def _go_on(self, row: int, look: bool) -> None:
        """See to it that a call is on its way for what stands in the text now."""
        answer, going = self._answers[row], self._going.get(row)
        if going is not None and not self._goes_on(going, answer, look):
            self._give_up(row)
            going = None
        if going is None:
            self._going[row] = self._begin(row, answer, look)

    def _goes_on(self, going: _Going, answer: Row, look: bool) -> bool:
        """Whether a call's tokens belong behind the text as it stands."""
        text, call = answer.transcript, going.call
        taken = text.ids[going.start :]
        return (
            going.look == look
            and not call.stale
            and text.read[self._writer] == going.mark
            and len(text) == going.start + call.given
            and taken == [arrived.token for arrived in call.tokens[: call.given]]
        )

    def _begin(self, row: int, answer: Row, look: bool) -> _Going:
        check_row(answer, self._carrier.name)
        text = answer.transcript
        left = answer.boundary.max_tokens - len(answer.step_ids)
        order = Order(
            prompt=list(text.ids),
            most=1 if look else max(1, min(answer.room, left)),
            stops=(*sorted(answer.ends), *self._closing(answer.boundary)),
            sampling=answer.sampling,
            # Of the answer's own numbers: each call has another, and a repeated one the same.
            seed=int(answer.uniforms(1)[0] * _SEEDS),
            session=self._session(text),
            place=answer.place,
        )
        call = Call(order, self._arrivals.told)
        known = text.read[self._writer]
        scan = answer.boundary.scan(answer.step_ids)
        self._carrier.send(call)
        return _Going(call, look, len(text), known, known, scan)

    def _closing(self, boundary: StepBoundary) -> tuple[int, ...]:
        key = boundary.settings
        if key not in self._stops:
            self._stops[key] = boundary.closing(self._vocab_size)
        return self._stops[key]

    def _reply(self, row: int) -> list[Draw] | Looked | Exception | Later:
        going, answer = self._going[row], self._answers[row]
        call = going.call
        if call.given == len(call.tokens) or call.stale:
            if call.error is not None:
                self._give_up(row)
                return call.error
            if call.stale or not call.ended:
                return self._later
            self._give_up(row)
            return SteerError(
                f"{self._carrier.name} ended {call.order.place} without a token: look into its log"
            )
        try:
            draws, over = self._drawn(going, answer)
        except SteerError as error:
            self._give_up(row)
            return error
        if answer.sampling.temperature:
            answer.uniforms(len(draws))  # used up, so that a seed belongs to a place in the text
        text = answer.transcript
        going.mark = text.read[self._writer] = len(text) + max(0, len(draws) - 1)
        if over:
            self._give_up(row)
        return Looked(draws[0].value, None, draws[0]) if going.look else draws

    def _drawn(self, going: _Going, answer: Row) -> tuple[list[Draw], bool]:
        """What has come and belongs to the step; and whether nothing more of the call does."""
        call, draws = going.call, list[Draw]()
        room = 1 if going.look else answer.room
        while call.given < len(call.tokens) and len(draws) < room:
            token, value = call.tokens[call.given]
            if not 0 <= token < self._vocab_size:
                raise BrokenModelError(
                    f"{self._carrier.name} wrote token id {token} at {answer.place}, and the "
                    f"tokenizer knows ids below {self._vocab_size}: check its weights"
                )
            if not math.isfinite(value):
                raise BrokenModelError(
                    f"{self._carrier.name} returned logits that are NaN or not finite at "
                    f"{answer.place}: check its weights and its dtype"
                )
            call.given += 1
            draws.append(Draw(token, value))
            if going.scan.push(token) or token in answer.ends:
                return draws, True
        return draws, going.look or (call.ended and call.given == len(call.tokens))

    def _give_up(self, row: int) -> None:
        going = self._going.pop(row, None)
        if going is not None:
            going.call.drop()
            self._passes[row] += _passes(going)


def _passes(going: _Going) -> list[Pass]:
    """What a call has cost, as far as its tokens were of use.

    Of a call that was given up the server does not say what it had cached: then it is what it had
    read of this text before.
    """
    call = going.call
    if not call.given:
        return []
    cached = going.known if call.cached is None else call.cached
    cached = min(cached, going.start - 1)
    first = Pass(going.start - cached, cached)
    return [first, *(Pass(1, going.start + i) for i in range(call.given - 1))]


def check_row(answer: Row, name: str) -> None:
    """Refuse what no server gives without help.

    Raises:
        SteerError: another signal than the largest logit, log-probabilities, drafts, or processors.
    """
    if answer.signal is not SIGNALS["max-logit"]:
        raise SteerError(f"signal {answer.signal.name!r} {GATE}, and {name} has none")
    if answer.log_probs is not None:
        raise SteerError(
            f"log_probs cannot be had of {name} together with raw logits: leave them out, or load "
            "the models here"
        )
    if answer.hooks.processors:
        raise SteerError(
            f"logits processors run where the model runs, and {name} is elsewhere: leave them out"
        )
