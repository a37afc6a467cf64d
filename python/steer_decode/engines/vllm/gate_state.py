"""The gate's rules and states on the device.

For vLLM's model runner V2 (``gate_v2``). A request's rule is a row of numbers, and so is what holds
after a position of it: each is read and written by one operation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .gate_args import MOST_BINS, MOST_INTERVALS, SIGNALS, GateArgs
from .gate_tokens import Deeds

_NUMBERS = 5  # of a state, before its flags
STATE = _NUMBERS + 4
RULE = 5 + 2 * MOST_INTERVALS * (1 + MOST_BINS)


class State(NamedTuple):
    """What holds of the open step after a position.

    Its row of logits is included.

    Fields, [rows] each:
        position: float64, the state's own; -1 for none.
        total: float64, sum of the step's values.
        least: float64, the smallest of them.
        tokens: float64, how many they are.
        step: float64, index of the step.
        said: bool, whether the step's tokens hold a letter or a digit.
        broke: bool, whether they end within a blank line.
        unjudged: bool, what came before could not be judged.
        lost: bool, and where the step began is not known.
    """

    position: Tensor
    total: Tensor
    least: Tensor
    tokens: Tensor
    step: Tensor
    said: Tensor
    broke: Tensor
    unjudged: Tensor
    lost: Tensor

    @classmethod
    def of(cls, packed: Tensor) -> State:
        """The fields of ``packed``, [rows, STATE] float64."""
        numbers, flags = packed[:, :_NUMBERS], packed[:, _NUMBERS:] != 0
        return cls(*numbers.unbind(1), *flags.unbind(1))

    def packed(self) -> Tensor:
        """All fields as [rows, STATE] float64."""
        return torch.stack(self, 1)


class Rules(NamedTuple):
    """The rules of requests, a row for each.

    Fields:
        handoff: [rows] int64.
        signal: [rows] int64, its place in the names of signals.
        step: [rows] float64, index of the request's first step.
        max_step: [rows] float64.
        minimum: [rows] bool, whether a score is the minimum.
        before: [rows, intervals, 2] float64, ends of closed intervals; NaN for none.
        after: [rows, bins, intervals, 2] float64, likewise.
    """

    handoff: Tensor
    signal: Tensor
    step: Tensor
    max_step: Tensor
    minimum: Tensor
    before: Tensor
    after: Tensor

    @classmethod
    def of(cls, packed: Tensor) -> Rules:
        """The fields of ``packed``, [rows, RULE] float64."""
        handoff, signal = packed[:, :2].long().unbind(1)
        regions = packed[:, 5:].unflatten(1, (1 + MOST_BINS, MOST_INTERVALS, 2))
        return cls(
            handoff,
            signal,
            packed[:, 2],
            packed[:, 3],
            packed[:, 4] != 0,
            regions[:, 0],
            regions[:, 1:],
        )


def packed_rule(args: GateArgs) -> list[float]:
    """A row of :meth:`Rules.of`."""
    rule = args.rule
    everything = ((-float("inf"), float("inf")),)
    before = everything if rule.before is None else rule.before.intervals
    after = [region.intervals for region in rule.after] or [everything]
    row: list[float] = [
        args.handoff,
        SIGNALS.index(rule.signal),
        args.step,
        args.max_step,
        rule.score == "min",
    ]
    for region in (before, *after, *after[-1:] * (MOST_BINS - len(after))):
        row += [end for interval in region for end in interval]
        row += [float("nan")] * 2 * (MOST_INTERVALS - len(region))
    return row


def advance(
    rules: Rules,
    old: State,
    position: Tensor,
    first: Tensor,
    deeds: Deeds,
    value: Tensor,
) -> tuple[State, Tensor]:
    """Take a row of logits, and the token before it.

    Args:
        rules: of the requests, a row for each.
        old: their states after the position before.
        position: [rows] int64, of the token.
        first: [rows] bool, whether the token is the last one of the prompt.
        deeds: [rows] each, what the token does to a step.
        value: [rows] float64, the signal of the logits; NaN where it cannot be told.

    Returns:
        Their states after the position; and [rows] bool, whether the requests are to end there.
    """
    missing = ~first & (old.position != position - 1)
    known = ~(first | missing)
    broke = old.broke & known
    said = ~first & ((old.said & known) | deeds.says)
    completes = torch.where(broke, deeds.closes_after, deeds.closes)
    tokens, step = old.tokens * known, torch.where(known, old.step, rules.step)
    closed = (said & completes) | (known & (tokens >= rules.max_step))
    opens = first | closed
    unjudged = missing | (old.unjudged & ~first)
    lost = (missing | (old.lost & ~first)) & ~closed

    score = torch.where(rules.minimum, old.least, old.total / tokens)
    ends = closed & ~unjudged & ~_within(score, _of_step(rules.after, step))
    unjudged = unjudged | value.isnan()
    ends = ends | (opens & ~unjudged & ~_within(value, rules.before))
    ends = ends | (unjudged & ~(opens | lost))

    goes_on = known & ~closed
    new = State(
        position,
        torch.where(goes_on, old.total, 0.0) + value,
        torch.where(goes_on, torch.minimum(old.least, value), value),
        tokens * goes_on + 1,
        step + closed,
        said & ~opens,
        torch.where(broke, deeds.breaks_after, deeds.breaks) & ~opens,
        unjudged,
        lost,
    )
    return new, ends


def put(field: Tensor, places: list[int], values: list[Any]) -> None:
    """Write values into places, without a wait of the host."""
    pin = field.is_cuda
    where = torch.tensor(places, dtype=torch.int64, pin_memory=pin)
    what = torch.tensor(values, dtype=field.dtype, pin_memory=pin)
    where, what = (t.to(field.device, non_blocking=True) for t in (where, what))
    field.index_copy_(0, where, what)


def tell(rules: Tensor, told: Mapping[int, GateArgs]) -> None:
    """Write the rules of requests into their places, [places, RULE]."""
    put(rules, list(told), [packed_rule(args) for args in told.values()])


def _within(values: Tensor, ends: Tensor) -> Tensor:
    """Whether values [n] lie in one of the closed intervals [n, intervals, 2]."""
    value = values[:, None]
    return ((ends[..., 0] <= value) & (value <= ends[..., 1])).any(-1)


def _of_step(after: Tensor, step: Tensor) -> Tensor:
    """The region of each row's step: [rows, intervals, 2]."""
    which = step.long().clamp(0, MOST_BINS - 1)[:, None, None, None]
    return after.take_along_dim(which, 1)[:, 0]
