"""A model whose linear layers and norms are ours."""

from __future__ import annotations

from transformers import PreTrainedModel

from steer_kernels import supported_cpu_isas

from ..replaced import ReplacedLayers
from . import linear, norm
from .enabled import enabled


class DirectLayers(ReplacedLayers):
    """A model as its passes call it.

    See ``linear.py`` and ``norm.py``.

    Args:
        model: any; the layers that can be are ours.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        # Without a kernel, the operators are their slow definitions.
        kernel = enabled() and bool(supported_cpu_isas())
        super().__init__(model, (linear, norm) if kernel else ())
