"""A call whose tokens come into a text."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.boundary import StepScan
from ...core.cost import Pass
from ...core.requests import Row
from ...core.signals import SIGNALS
from ...errors import SteerError
from .calls import Call
from .gate_args import GateArgs

GATE = "needs the gate inside the server, which has all logits"


@dataclass(eq=False)
class Going:
    """A row's call, and its tokens in the text.

    Attributes:
        call: on its way.
        look: only its first token is wanted, and it is not written yet.
        args: what the gate is told with it; None where it writes to the end of a step alone.
        start: tokens of the transcript when it began.
        mark: where the read mark was left.
        known: tokens that the model had read of this text before, as far as we know.
        scan: of the open step, with the tokens that were handed up.
    """

    call: Call
    look: bool
    args: GateArgs | None
    start: int
    mark: int
    known: int
    scan: StepScan

    @property
    def gated(self) -> bool:
        """Whether the gate ends it with HANDOFF."""
        return self.args is not None

    @property
    def looks(self) -> bool:
        """Whether the gate looks before steps."""
        return self.args is not None and self.args.rule.before is not None

    @property
    def hands_over(self) -> bool:
        """Whether HANDOFF is what comes next."""
        ahead = self.call.tokens[self.call.given : self.call.given + 1]
        return self.args is not None and [a.token for a in ahead] == [self.args.handoff]

    def paid(self) -> list[Pass]:
        """What its tokens that were of use have cost.

        HANDOFF is one of them. Of a call that was given up the server does not say what it had
        cached: then it is what it had read of this text before.
        """
        call = self.call
        written = call.given + self.hands_over
        if not written:
            return []
        cached = self.known if call.cached is None else call.cached
        cached = min(cached, self.start - 1)
        first = Pass(self.start - cached, cached)
        return [first, *(Pass(1, self.start + i) for i in range(written - 1))]


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
