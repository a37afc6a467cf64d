"""The gate's rules and states on the device.

For vLLM's model runner V2 (``gate_v2``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .gate_args import MOST_BINS, MOST_INTERVALS, SIGNALS, GateArgs
from .gate_tokens import TokenBits


class State(NamedTuple):
    """What holds of the open step after a position.

    Its row of logits is included.

    Fields, one number a request:
        position: int64, the state's own.
        total: float64, sum of the step's values.
        least: float64, the smallest of them.
        tokens: int64, how many they are.
        step: int64, index of the step.
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
    def empty(cls, shape: tuple[int, ...], device: torch.device) -> State:
        """States of no position."""
        kinds = [torch.int64, torch.float64, torch.float64, torch.int64, torch.int64]
        kinds += [torch.bool] * 4
        made = cls(*(torch.zeros(shape, dtype=kind, device=device) for kind in kinds))
        made.position.fill_(-1)
        return made


class Rules(NamedTuple):
    """The rules of requests, a row for each.

    Fields:
        handoff: [P] int64. step: [P] int64. max_step: [P] int64.
        signal: [P] int64, its place in the names of signals.
        minimum: [P] bool, whether a score is the minimum.
        before: [P, intervals, 2] float64, ends of closed intervals; NaN for none.
        after: [P, bins, intervals, 2] float64, likewise.
    """

    handoff: Tensor
    step: Tensor
    max_step: Tensor
    signal: Tensor
    minimum: Tensor
    before: Tensor
    after: Tensor


def advance(
    rules: Rules,
    old: State,
    position: Tensor,
    first: Tensor,
    bits: Tensor,
    value: Tensor,
) -> tuple[State, Tensor]:
    """Take a row of logits, and the token before it.

    Args:
        rules: of the requests, a row for each.
        old: their states after the position before.
        position: [rows] int64, of the token.
        first: [rows] bool, whether the token is the last one of the prompt.
        bits: [rows] uint8, what the token does to a step; see :class:`TokenBits`.
        value: [rows] float64, the signal of the logits; NaN where it cannot be told.

    Returns:
        Their states after the position; and [rows] bool, whether the requests are to end there.
    """
    missing = ~first & (old.position != position - 1)
    fresh = first | missing
    said = ~first & ((old.said & ~fresh) | has(bits, TokenBits.SAYS_SOMETHING))
    broke = old.broke & ~fresh
    completes = torch.where(
        broke, has(bits, TokenBits.CLOSES_AFTER_BREAK), has(bits, TokenBits.CLOSES)
    )
    tokens = torch.where(fresh, 0, old.tokens)
    step = torch.where(fresh, rules.step, old.step)
    closed = ~first & ((said & completes) | (~missing & (tokens >= rules.max_step)))
    opens = first | closed
    unjudged = missing | (old.unjudged & ~first)
    lost = (missing | (old.lost & ~first)) & ~closed

    score = torch.where(rules.minimum, old.least, old.total / tokens.clamp(min=1))
    ends = closed & ~unjudged & ~_within(score, _of_step(rules.after, step))
    unjudged = unjudged | value.isnan()
    ends = ends | (opens & ~unjudged & ~_within(value, rules.before))
    ends = ends | (~opens & unjudged & ~lost)

    begins = opens | missing
    breaks = torch.where(
        broke,
        has(bits, TokenBits.ENDS_IN_BREAK_AFTER_BREAK),
        has(bits, TokenBits.ENDS_IN_BREAK),
    )
    new = State(
        position,
        torch.where(begins, 0.0, old.total) + value,
        torch.minimum(torch.where(begins, torch.inf, old.least), value),
        torch.where(opens, 0, tokens) + 1,
        step + closed,
        said & ~opens,
        breaks & ~opens,
        unjudged,
        lost,
    )
    return new, ends


def _of_step(after: Tensor, step: Tensor) -> Tensor:
    """The region of each row's step: [rows, intervals, 2]."""
    rows = torch.arange(len(step), device=step.device)
    return after[rows, step.clamp(0, MOST_BINS - 1)]


def has(bits: Tensor, bit: TokenBits) -> Tensor:
    return (bits & int(bit)) != 0


def _within(values: Tensor, ends: Tensor) -> Tensor:
    """Whether values [n] lie in one of the closed intervals [n, intervals, 2]."""
    value = values[:, None]
    return ((ends[..., 0] <= value) & (value <= ends[..., 1])).any(-1)


def no_rules(places: int, device: torch.device) -> Rules:
    def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.zeros(places, *shape, dtype=dtype, device=device)

    return Rules(
        zeros(),
        zeros(),
        zeros(),
        zeros(),
        zeros(dtype=torch.bool),
        zeros(MOST_INTERVALS, 2, dtype=torch.float64),
        zeros(MOST_BINS, MOST_INTERVALS, 2, dtype=torch.float64),
    )


def tell(rules: Rules, told: Mapping[int, GateArgs]) -> None:
    """Write the rules of requests into their places."""
    everything = [(-torch.inf, torch.inf)]
    rows: list[list[Any]] = [[] for _ in rules]
    for args in told.values():
        rule = args.rule
        after = [list(region.intervals) for region in rule.after] or [everything]
        after += [after[-1]] * (MOST_BINS - len(after))
        before = everything if rule.before is None else list(rule.before.intervals)
        values = (
            args.handoff,
            args.step,
            args.max_step,
            SIGNALS.index(rule.signal),
            rule.score == "min",
            _padded(before),
            [_padded(region) for region in after],
        )
        for row, value in zip(rows, values, strict=True):
            row.append(value)
    for field, row in zip(rules, rows, strict=True):
        put(field, list(told), row)


def _padded(intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    nan = float("nan")
    return intervals + [(nan, nan)] * (MOST_INTERVALS - len(intervals))


def put(field: Tensor, places: list[int], values: list[Any]) -> None:
    """Write values into places, without a wait of the host."""
    pin = field.is_cuda
    where = torch.tensor(places, dtype=torch.int64, pin_memory=pin)
    what = torch.tensor(values, dtype=field.dtype, pin_memory=pin)
    where, what = (t.to(field.device, non_blocking=True) for t in (where, what))
    field.index_copy_(0, where, what)
