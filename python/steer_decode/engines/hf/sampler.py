"""Draws the next token of each row from its logits, and reads the statistics in the same pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steer_kernels import sample_logits

from ...core.sampling import Sampling
from ...decode.answer import Conversation
from ...errors import BrokenModelError

_RANKS = 8  # of the statistics: what signals and routers read
# The operator itself: its Python wrapper only words errors, half as long again for a small model.
_draw = torch.ops.steer_kernels.sample_logits_packed.default


class Drawer:
    """Draws for conversations, each with its own uniform numbers.

    Args:
        sampling: how tokens are drawn.
        vocab_size: columns of the logits that are tokens.
    """

    def __init__(self, sampling: Sampling, vocab_size: int) -> None:
        self._greedy = sampling.temperature == 0
        self._options = sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p
        self._vocab_size = vocab_size
        self._unused = torch.empty(0, dtype=torch.float32, device="cpu")

    def draw(self, logits: Tensor, conversations: Sequence[Conversation]) -> Tensor:
        """A token for each row of ``logits`` [n, V] and its statistics, in float64.

        See ``steer_kernels.sample_logits_packed``.
        """
        uniform = self._uniform(conversations, logits)
        return _draw(logits, uniform, *self._options, _RANKS, self._vocab_size)

    def draw_processed(self, logits: Tensor, conversation: Conversation) -> int:
        """A token from what the caller's processors make of raw logits [1, V].

        Raises:
            BrokenModelError: they leave no token to choose.
        """
        ids = torch.tensor([conversation.transcript.ids], device=logits.device)
        raw = logits[:, : self._vocab_size].to(torch.float32, copy=True)
        scores: Tensor = conversation.hooks.processors(ids, raw)  # type: ignore[misc]
        if bool(torch.isnan(scores).any()) or not bool((scores > -torch.inf).any()):
            raise BrokenModelError(
                f"logits_processor left no token to choose at {conversation.place}: "
                "at least one score must be a number above -inf"
            )
        uniform = self._uniform([conversation], logits)
        return int(sample_logits(scores, uniform, *self._options).token)

    def _uniform(self, conversations: Sequence[Conversation], logits: Tensor) -> Tensor:
        """A number for each row, where the logits are; greedy rows do not look at it."""
        if not self._greedy:
            numbers = [conversation.uniforms(1)[0] for conversation in conversations]
            return torch.tensor(numbers, dtype=torch.float64, device=logits.device)
        if len(self._unused) != len(conversations) or self._unused.device != logits.device:
            self._unused = torch.zeros(
                len(conversations), dtype=torch.float32, device=logits.device
            )
        return self._unused
