"""Layers of a GPU, on a CPU: as a model on a card has them, with definitions for kernels."""

from __future__ import annotations

import importlib

import pytest
from steer_decode.engines.hf import gpu


@pytest.fixture
def as_on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models on the CPU are served as those on a card are, and by nothing of a CPU's."""
    enabled = importlib.import_module(f"{gpu.__name__}.enabled")  # the door has a function so named
    monkeypatch.setattr(enabled, "DEVICES", ("cpu", "cuda"))
    monkeypatch.setenv("STEER_DECODE_CPU", "off")
    monkeypatch.delenv("STEER_DECODE_GPU", raising=False)
