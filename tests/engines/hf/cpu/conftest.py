"""What the tests of linear layers watch."""

from __future__ import annotations

import pytest
import torch
from steer_decode.engines.hf.cpu import linear
from torch import Tensor


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of what `decode_linear` was given, for which every layer is large enough."""
    shapes = []
    monkeypatch.setattr(linear, "LEAST_WEIGHTS", 1)

    def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shapes.append(tuple(x.shape))
        return torch.ops.steer_kernels.decode_linear(x, weight, bias)

    monkeypatch.setattr(linear, "_multiply", multiply)
    return shapes
