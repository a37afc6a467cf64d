"""Faster layers on a CPU, behind one door.

A model has them for the time of a pass. A reader may skip this folder. ``STEER_DECODE_CPU=off``
turns all of it off; tokens are the same, up to the rounding of the products.
"""

from __future__ import annotations

from .attention import DirectAttention
from .cache import cache_of
from .enabled import enabled
from .layers import DirectLayers as patched

__all__ = [
    "DirectAttention",
    "cache_of",
    "enabled",
    "patched",
]
