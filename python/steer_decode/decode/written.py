"""What has been written of one answer.

Its text and its steps, and what an engine may see of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Literal

from ..core.boundary import StepScan
from ..core.detokenizer import Detokenizer
from ..core.drafting import DraftLength
from ..core.events import TextDelta
from ..core.gate_rule import GateRule
from ..core.requests import Draw, Hooks
from ..core.sampling import Sampling
from ..core.signals import SIGNALS, Signal
from ..core.token_text import TokenTexts, decode
from ..core.trace import Step, Trace
from ..core.transcript import WRITERS, Transcript, Writer
from ..errors import SteerError
from ..policies import Policy
from .numbers import Numbers
from .routing import Routing


class Written:
    """The state of one answer.

    Engines see it as a ``core.requests.Row``.

    Args:
        routing: the two models, and where steps and answers end.
        policy: who writes next, started.
        transcript: of which the last token is the last of the prompt.
        limit: most tokens of the transcript.
        sampling: how tokens are drawn.
        seed: of this answer's draws, and of policies that draw.
        hooks: processors and stopping criteria.
        log_probs: likeliest tokens that are wanted with each token; None for none.

    Attributes:
        trace: its steps so far.
        written, discarded: tokens by writer, written at all and taken back again.
        most: tokens that may be written now; None for as many as there is room for.
        drafting: how the large model's tokens are drafted; None without drafts. Processors look at
            every token before it is drawn, so with them there are none.
        drafts: tokens at the end of the transcript that are yet to be verified.
        length: of the next draft.
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
        log_probs: int | None = None,
    ) -> None:
        self.routing, self.policy, self.transcript = routing, policy, transcript
        self.sampling, self.hooks, self.limit = sampling, hooks, limit
        self.boundary, self.ends = routing.boundary, routing.ends
        self.drafting = None if hooks.processors else routing.policy.drafts(sampling)
        self.drafts: Sequence[Draw] = []
        self.proposes = False
        self.log_probs = log_probs
        if self.drafting:
            self.length = DraftLength(self.drafting)
        self._seed = seed
        self._numbers, self._draft_numbers = Numbers(seed), Numbers(f"{seed}:drafts")
        self._texts = TokenTexts.of(routing.pair.tokenizer)
        self.detokenizer = Detokenizer(routing.pair.tokenizer)
        ids = list(transcript.ids)
        prompt = decode(routing.pair.tokenizer, ids)
        self.trace = Trace(routing.policy.label, self.signal.name, ids, prompt=prompt)
        self.question = policy.question(routing.pair)
        self.written: dict[Writer, int] = dict.fromkeys(WRITERS, 0)
        self.discarded: dict[Writer, int] = dict.fromkeys(WRITERS, 0)
        self.restarted = False
        self.most: int | None = None
        self._scan: StepScan
        self._step: Step
        self._pen: Writer | Literal[""] = ""  # who wrote the last token, one taken back included

    def uniforms(self, n: int) -> list[float]:
        """The next ``n`` uniform numbers in [0, 1).

        They are the answer's own, whoever writes. Each token that is appended uses one up; those
        that were looked at in vain come again. Drafts have others.
        """
        return (self._draft_numbers if self.proposes else self._numbers).peek(n)

    @property
    def signal(self) -> Signal:
        """What is read off raw logits.

        The policy's signal, or what servers tell of each token; of drafts, what ends them.
        """
        if self.proposes and self.drafting and self.drafting.gated:
            return SIGNALS[self.drafting.signal]
        return self.routing.signal

    @property
    def step_index(self) -> int:
        """Which step is open, from 0."""
        return self._step.index

    def gate_rule(self, writer: Writer) -> GateRule | None:
        """Where ``writer`` goes on writing, if numbers alone say it."""
        return self.policy.gate_rule(writer)

    @property
    def room(self) -> int:
        """Most tokens that may be written now."""
        room = self.limit - len(self.transcript)
        return room if self.most is None else min(self.most, room)

    @property
    def step_ids(self) -> list[int]:
        """The tokens of the open step, drafts included."""
        return self._open if self.proposes else self._step.token_ids

    @property
    def said_something(self) -> bool:
        """Whether the open step holds a letter or a digit."""
        return self._scan.said

    @property
    def place(self) -> str:
        """Where in the answer the next token stands, for messages."""
        return f"token {len(self._step.token_ids)} of step {self._step.index}"

    def begin(self, step: Step) -> None:
        """Open ``step``, which may hold tokens already."""
        self._step, self._scan = step, self.boundary.scan(step.token_ids, self._texts)

    @contextmanager
    def proposing(self) -> Iterator[None]:
        """What is written meanwhile is a draft.

        The step does not see it.
        """
        scan = self._scan
        self.drafts, self._open = [], list(self._step.token_ids)
        self._scan, self.proposes = copy(scan), True
        try:
            yield
        finally:
            self._scan, self.proposes, self.most = scan, False, None

    def propose(self, draft: Draw) -> bool:
        """Let a draft stand at the end of the transcript.

        Returns whether another may follow.
        """
        assert self.drafting is not None
        self._draft_numbers.use()
        self.transcript.append(draft.token, "small")
        self.drafts = [*self.drafts, draft]
        self._open.append(draft.token)
        if draft.token in self.ends:
            return False
        if self._scan.push(draft.token):
            self._open, self._scan = [], self.boundary.scan((), self._texts)
            return self.drafting.beyond
        return True

    def over(self, step: Step) -> bool:
        """Whether nothing more belongs to ``step``."""
        return step.closed or bool(self.trace.stop_reason)

    def append(self, step: Step, draw: Draw, writer: Writer, drafted: bool = False) -> TextDelta:
        """Let a token stand in ``step``.

        One that was ``drafted`` has been counted as written by the model that drafted it.
        """
        token, value = draw.token, draw.value
        self._numbers.use()
        self._pen = writer
        self.transcript.append(token, writer)
        self.written[writer] += not drafted
        step.token_ids.append(token)
        step.values.append(value)
        if draw.log_probs is not None:
            step.log_probs.append(draw.log_probs)
        text = self.detokenizer.push(token)
        step.ended = token in self.ends
        step.closed = self._scan.push(token) or step.ended
        self.trace.stop_reason = "eos" if step.ended else self._cut()
        if self.trace.stop_reason:
            text += self.detokenizer.flush()
        step.text += text
        step.ends.append(len(step.text))
        return TextDelta(text, token, writer, step.index, draw.log_probs)

    def _cut(self) -> str:
        """Why the answer cannot go on, though no model has ended it; "" if it can."""
        if len(self.transcript) >= self.limit:
            full = self.limit == self.routing.pair.max_length
            return "context" if full else "max_new_tokens"
        if self.hooks.criteria and self.hooks.criteria(self.transcript.ids):
            return "criteria"
        return ""

    def take_back(self, step: Step, end: int) -> None:
        """Move the transcript back to ``end`` tokens, within ``step``."""
        step.discarded = True
        self.trace.stop_reason = ""
        for writer in WRITERS:
            self.discarded[writer] += self.transcript.writers[end:].count(writer)
        self.transcript.truncate(end)

    def restart(self) -> None:
        """Move the transcript back to the prompt.

        It is done once at most, for policies that say so beforehand.

        Raises:
            SteerError: it has been done before, or the policy did not say so.
        """
        if self.restarted or not self.policy.restarts:
            reason = (
                "a second time" if self.restarted else "without saying that it restarts answers"
            )
            index = self.trace.steps[-1].index
            raise SteerError(
                f"policy {self.policy.name!r} answered 'restart' {reason} after step {index}: "
                "only a policy with restarts = True may do so, and once"
            )
        for step in self.trace.kept:
            self.take_back(step, self.transcript.prompt_length)
        self.detokenizer = Detokenizer(self.routing.pair.tokenizer)
        self.restarted = True
