"""`steer bench decode` over tiny models."""

from __future__ import annotations

from typing import Any

import pytest
from steer_decode.bench.decode import measure as decode
from steer_decode.bench.decode import models as decode_models
from steer_decode.bench.decode.models import Shape
from steer_decode.cli import app
from typer.testing import CliRunner

TINY = Shape("llama", vocab=300, hidden=32, intermediate=48, layers=2, heads=4, kv_heads=2)


def bench(*args: object) -> Any:
    return CliRunner().invoke(app, ["bench", "decode", *map(str, args)])


def use_tiny_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shape is a tiny one, and no pair of another test is kept."""
    monkeypatch.setattr(decode_models, "SHAPES", dict.fromkeys(decode_models.SHAPES, TINY))
    decode._pair.cache_clear()
