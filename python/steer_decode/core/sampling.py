"""How a token is chosen: greedy, or by one uniform.

Temperature and cuts are those of transformers. ``sample_logits`` of ``steer_kernels`` draws; this
is what it is told.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import SteerError
from ..util.checks import number, whole


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen.

    ``temperature`` 0 is greedy; the rest is as in transformers.

    Raises:
        SteerError: a value outside its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p"):
            object.__setattr__(self, name, number(name, getattr(self, name)))
        object.__setattr__(self, "top_k", whole("top_k", self.top_k))
        if not 0 <= self.temperature < float("inf"):
            raise SteerError(
                f"temperature must be 0 (greedy) or a positive number, got {self.temperature}"
            )
        if not 0 < self.top_p <= 1:
            raise SteerError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise SteerError(f"top_k must be 0 (all) or positive, got {self.top_k}")
        object.__setattr__(self, "top_k", min(self.top_k, 2**31))  # no vocabulary is larger
        if not 0 <= self.min_p <= 1:
            raise SteerError(f"min_p must lie in [0, 1], got {self.min_p}")
