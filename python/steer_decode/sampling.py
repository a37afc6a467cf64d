"""From raw logits to the next token: greedy, or the warpers of transformers and one uniform."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from steer_kernels import LogitStats

from .errors import SteerError


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. ``temperature`` 0 is greedy; the rest is as in transformers.

    Raises:
        SteerError: a value outside its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise SteerError(
                f"temperature must be 0 (greedy) or a positive number, got {self.temperature}"
            )
        if not 0 < self.top_p <= 1:
            raise SteerError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise SteerError(f"top_k must be 0 (all) or positive, got {self.top_k}")
        if not 0 <= self.min_p <= 1:
            raise SteerError(f"min_p must lie in [0, 1], got {self.min_p}")

    def warpers(self) -> LogitsProcessorList:
        """The chain in the order in which ``generate`` of transformers applies it."""
        chain = LogitsProcessorList([TemperatureLogitsWarper(float(self.temperature))])
        if self.top_k:
            chain.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1:
            chain.append(TopPLogitsWarper(self.top_p))
        if self.min_p:
            chain.append(MinPLogitsWarper(self.min_p))
        return chain


class Sampler:
    """Draws tokens for one conversation, the same ones for the same seed."""

    def __init__(self, sampling: Sampling, seed: int, vocab_size: int) -> None:
        self._greedy = sampling.temperature == 0
        self._warpers = None if self._greedy else sampling.warpers()
        # On the CPU whatever the models' devices: one stream of uniforms, whoever writes.
        self._generator = torch.Generator().manual_seed(seed)
        self._vocab_size = vocab_size

    def draw(self, logits: Tensor, stats: LogitStats) -> int:
        """The next token from raw logits [1, V] and their statistics."""
        if self._warpers is None:
            return int(stats.topk_ids[0, 0])
        kept = self._warpers(None, logits[:, : self._vocab_size].float())
        mass = kept.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)[0]
        uniform = torch.rand((), generator=self._generator, dtype=torch.float64)
        # side="right" skips ids without mass; the last entry stands in for a total of exactly 1.
        at = torch.searchsorted(mass, uniform.to(mass.device) * mass[-1], right=True)
        return int(at.clamp_max(self._vocab_size - 1))
