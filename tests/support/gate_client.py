"""Routes conversations over two engines, of which one or both have the gate; counts their calls."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from steer_decode import Pair, Policy, Step
from steer_decode.core.gate_rule import GateRule
from steer_decode.core.transcript import WRITERS, Writer, other
from steer_decode.engines.vllm.gate_args import GateArgs
from support.hand_engine import Asked, HandEngine

from steer_kernels import logit_stats

Calls = Generator[tuple[Writer, Asked], None, "Routed"]


class NotJudged(Exception):
    """HANDOFF came within a step."""


@dataclass
class Routed:
    """A conversation: its steps, discarded ones too, and its calls of either engine."""

    prompt: list[int]
    steps: list[Step] = field(default_factory=list)
    calls: dict[Writer, int] = field(default_factory=lambda: dict.fromkeys(WRITERS, 0))

    @property
    def ids(self) -> list[int]:
        return [token for step in self.steps if not step.discarded for token in step.token_ids]


@dataclass(frozen=True)
class Client:
    """What the conversations have in common.

    Attributes:
        handoff: for each model whose engine has the gate, the id of HANDOFF.
        rule: in place of the policy's.
    """

    pair: Pair
    policy: Policy
    handoff: dict[Writer, int]
    limit: int
    rule: Callable[[Writer], GateRule | None] | None = None

    def converse(self, name: str, prompt: Sequence[int]) -> Calls:
        """One conversation: yields requests, which are answered by being written."""
        found, writer, index = Routed(list(prompt)), "small", 0
        ends = self.pair.eos_ids
        while (room := self.limit - len(found.ids)) > 0:
            found.calls[writer] += 1
            gated = writer in self.handoff
            asked = self._request(f"{name}-{sum(found.calls.values())}", writer, found, index, room)
            yield writer, asked
            out = list(asked.out)
            handed = gated and out[-1] == self.handoff[writer]
            if handed:
                out.pop()
            steps = self._split(writer, index, out, asked)
            if handed and steps and not steps[-1].closed:
                raise NotJudged(f"{name}: {steps[-1]}")
            found.steps += steps
            index += len(steps)
            if not handed and (gated or out[-1] in ends or len(out) == room):
                return found
            if handed and writer == "small" and not self.policy.looks_ahead and index == 1:
                steps[-1].discarded, index = True, 0  # step 0 is taken back
            if handed:
                writer = other(writer)
            elif not self.policy.looks_ahead:
                writer = self.policy.after_step(steps[-1]).what  # type: ignore[assignment,attr-defined]
            else:
                writer = "small"
        return found

    def _request(self, name: str, writer: Writer, found: Routed, index: int, room: int) -> Asked:
        ids, ends = found.prompt + found.ids, self.pair.eos_ids
        if writer not in self.handoff:  # a call a step
            return Asked(ids, None, ends, room, until=self.pair.boundary.closes)
        handoff = self.handoff[writer]
        rule = self.rule(writer) if self.rule else self.policy.gate_rule(writer)
        assert rule is not None
        args = GateArgs(name, handoff, rule, step=index)
        return Asked(ids, args.xargs, ends | {handoff}, room)

    def _split(self, writer: Writer, index: int, out: list[int], asked: Asked) -> list[Step]:
        steps: list[Step] = []
        scan = None
        for token, raw in zip(out, asked.raw, strict=False):
            if scan is None:
                scan = self.pair.boundary.scan()
                steps.append(Step(index + len(steps), writer))
            stats = logit_stats(raw[None], 2, self.pair.vocab_size)
            steps[-1].token_ids.append(token)
            steps[-1].values.append(float(self.policy.signal.read(stats)[0]))
            if scan.push(token) or token in self.pair.eos_ids:
                steps[-1].closed, scan = True, None
        return steps


def run(
    engines: dict[Writer, HandEngine], conversations: Collection[Calls], at_once: int = 16
) -> list[Routed]:
    """Let conversations advance together, so many at a time; in their order."""
    order = list(conversations)
    found: dict[int, Routed] = {}
    asked: dict[int, tuple[int, Calls]] = {}
    queue = list(enumerate(order))

    def advance(place: int, one: Calls) -> None:
        try:
            writer, request = next(one)
        except StopIteration as stop:
            found[place] = stop.value
        else:
            asked[id(request)] = place, one
            engines[writer].ask(request)

    while len(found) < len(order):
        while queue and len(asked) < at_once:
            advance(*queue.pop(0))
        for engine in engines.values():
            for request in engine.step():
                advance(*asked.pop(id(request)))
    return [found[place] for place in range(len(order))]


def same(found: Sequence[Routed], wanted: Sequence[Any]) -> None:
    """Tokens, writers, discarded steps and scores are those of ``Router.generate``."""
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.ids == theirs.token_ids
        steps = [(s.writer, s.discarded, s.token_ids) for s in mine.steps]
        assert steps == [(s.writer, s.discarded, s.token_ids) for s in theirs.trace.steps]
        for a, b in zip(mine.steps, theirs.trace.steps, strict=True):
            assert abs(a.score - b.score) < 2e-5 * max(1, abs(b.score))
