"""The next token of each row, drawn from its logits.

The statistics are read in the same pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from steer_kernels import sample_logits

from ...core.requests import Row
from ...core.sampling import Sampling
from ...core.signals import read_signal
from ...errors import BrokenModelError, SteerError

RANKS = 8  # of the statistics: what signals and routers read
# The operator itself: its Python wrapper only words errors, half as long again for a small model.
_draw = torch.ops.steer_kernels.sample_logits_packed.default


class Sampler:
    """A sampler for rows with settings of their own.

    Each brings its uniform numbers, too.

    Args:
        vocab_size: columns of the logits that are tokens.
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._unused = torch.empty(0, dtype=torch.float32, device="cpu")

    def draw(self, logits: Tensor, rows: Sequence[Row]) -> Tensor:
        """Draw a token for each row of ``logits`` [n, V].

        Returned with its statistics, in float64. See ``steer_kernels.sample_logits_packed``, one
        call of which serves all rows with the same settings.
        """
        sampling, ranks = rows[0].sampling, ranks_for(rows)
        if all(row.sampling == sampling for row in rows):
            return self._together(logits, rows, sampling, ranks)
        groups: dict[Sampling, list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(row.sampling, []).append(i)
        drawn = [
            self._together(logits[at], [rows[i] for i in at], each, ranks)
            for each, at in groups.items()
        ]
        order = torch.tensor([i for at in groups.values() for i in at], device=logits.device)
        return torch.cat(drawn)[order.argsort()]

    def _together(
        self, logits: Tensor, rows: Sequence[Row], sampling: Sampling, ranks: int
    ) -> Tensor:
        uniform = self._uniform(rows, logits, sampling)
        return _draw(logits, uniform, *options(sampling), ranks, self._vocab_size)

    def draw_processed(self, logits: Tensor, row: Row) -> int:
        """Draw a token from processed logits.

        They are what the caller's processors make of raw logits [1, V].

        Raises:
            BrokenModelError: they leave no token to choose.
        """
        ids = torch.tensor([row.transcript.ids], device=logits.device)
        raw = logits[:, : self._vocab_size].to(torch.float32, copy=True)
        scores: Tensor = row.hooks.processors(ids, raw)  # type: ignore[misc]
        if bool(torch.isnan(scores).any()) or not bool((scores > -torch.inf).any()):
            raise BrokenModelError(
                f"logits_processor left no token to choose at {row.place}: "
                "at least one score must be a number above -inf"
            )
        uniform = self._uniform([row], logits, row.sampling)
        return int(sample_logits(scores, uniform, *options(row.sampling)).token)

    def _uniform(self, rows: Sequence[Row], logits: Tensor, sampling: Sampling) -> Tensor:
        """A number for each row, where the logits are; greedy rows do not look at it."""
        if sampling.temperature:
            numbers = [row.uniforms(1)[0] for row in rows]
            return torch.tensor(numbers, dtype=torch.float64, device=logits.device)
        if len(self._unused) != len(rows) or self._unused.device != logits.device:
            self._unused = torch.zeros(len(rows), dtype=torch.float32, device=logits.device)
        return self._unused


def ranks_for(rows: Iterable[Row]) -> int:
    """How many likeliest tokens a call over ``rows`` finds."""
    return max(RANKS, max(row.log_probs or 0 for row in rows))


def options(sampling: Sampling) -> tuple[float, int, float, float]:
    """``sampling`` in the order of the kernels' arguments."""
    return sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p


def values_of(
    packed: Tensor, numbers: list[list[float]], answers: Sequence[Row]
) -> Sequence[float | SteerError]:
    """The signal of each answer.

    An error where it is a user's own and fails.
    """
    signal = answers[0].signal
    if len(answers) == 1 and signal.column is not None:
        return [numbers[0][signal.column]]
    if all(answer.signal is signal for answer in answers):
        try:
            return read_signal(signal, packed, numbers, lambda i: answers[i].place)
        except SteerError as error:
            if len(answers) == 1:
                return [error]
    values: list[float | SteerError] = []
    for i, answer in enumerate(answers):
        one = packed[i : i + 1], numbers[i : i + 1]
        try:
            values += read_signal(answer.signal, *one, lambda _, place=answer.place: place)  # type: ignore[misc]
        except SteerError as error:
            values.append(error)
    return values
