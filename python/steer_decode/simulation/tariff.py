"""What passes cost, by the project's four costs.

The formulas are those of :mod:`steer_decode.core.cost`. Where only a number of parameters is known,
a token costs 2 N FLOPs and a pass reads two bytes a parameter; attention and cached keys and values
are then left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.shape import ModelShape
from .calls import EngineCall

BYTES = 2  # of a weight, as bfloat16 has it


@dataclass(frozen=True)
class Tariff:
    """What a model's passes cost.

    Attributes:
        parameters: that a token passes; None where nobody knows, and all costs are 0.
        shape: its sizes, where they are known.
    """

    parameters: int | None = None
    shape: ModelShape | None = None

    @classmethod
    def of(cls, shape: ModelShape) -> Tariff:
        """Of a model whose sizes are known."""
        return cls(shape.active, shape)

    def written(self, tokens: int) -> float:
        """FLOPs of written tokens, as the papers count them."""
        return 2.0 * (self.parameters or 0) * tokens

    def processed(self, new: int, past: int, heads: int) -> float:
        """FLOPs of ``new`` tokens after ``past`` cached ones."""
        if self.shape is None:
            return self.written(new)
        return float(self.shape.flops(new, past, heads))

    def weights(self, tokens: int) -> float:
        """Bytes of weights that a pass over ``tokens`` reads."""
        if self.shape is None:
            return float(BYTES * (self.parameters or 0))
        return self.shape.read_bytes(tokens)

    def cached(self, passes: int, past: int) -> float:
        """Bytes of keys and values that passes read.

        They are over one token each; the first comes after ``past`` others.
        """
        if self.shape is None or not passes:
            return 0.0
        return self.shape.bytes_of_passes(passes, past) - passes * self.shape.read_bytes(1)


class Spent:
    """What a model has spent.

    Args:
        tariff: its own.

    Attributes:
        calls, written, read, processed: calls, tokens that were written, read before a call's first
            pass, and all that went through the model.
        flops_paper, flops_processed, bytes_read: three of the four costs.
    """

    def __init__(self, tariff: Tariff) -> None:
        self._tariff = tariff
        self._weights: dict[int, float] = {}
        self.calls = self.written = self.read = self.processed = 0
        self.flops_paper = self.flops_processed = self.bytes_read = 0.0

    @property
    def known(self) -> bool:
        """Whether the costs are known, or nothing was asked."""
        return self._tariff.parameters is not None or not self.calls

    def passed(self, tokens: int, passes: int) -> None:
        """So many passes over ``tokens`` tokens each have run."""
        if tokens not in self._weights:
            self._weights[tokens] = self._tariff.weights(tokens)
        self.bytes_read += passes * self._weights[tokens]

    def called(self, call: EngineCall, read: int) -> None:
        """Count a call that has ended.

        ``read`` tokens were pending before its first pass.
        """
        past, tariff = call.context - read, self._tariff
        new = read + call.passes - 1
        self.calls += 1
        self.written += call.writes
        self.read += read
        self.processed += new
        self.flops_paper += tariff.written(call.writes)
        self.flops_processed += tariff.processed(new, past, call.passes)
        self.bytes_read += tariff.cached(1, past) + tariff.cached(call.passes - 1, call.context)
