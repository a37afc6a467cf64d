"""Fewer kernels a layer on a GPU, behind one door.

A model has them for the time of a pass. A reader may skip this folder. ``STEER_DECODE_GPU=off``
turns all of it off; tokens are the same, up to rounding.
"""

from __future__ import annotations

from transformers import PreTrainedModel

from ..replaced import ReplacedLayers
from .enabled import enabled, serves

__all__ = ["enabled", "patched", "serves"]


def patched(model: PreTrainedModel, usable: bool = True) -> ReplacedLayers:
    """A model whose layers are ours in a call.

    Args:
        model: on a device that :func:`serves` names.
        usable: whether any may be.
    """
    from .layers import FusedLayers  # what it compares layers with takes a while to import

    return FusedLayers(model, usable and enabled())
