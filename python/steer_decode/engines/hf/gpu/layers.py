"""A model whose layers take fewer kernels, on a GPU."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from steer_kernels.layers import in_one_kernel

from ..gradients import any_hooks
from ..replaced import ReplacedLayers, here
from . import attention, decoder, mlp, norm


class FusedLayers(ReplacedLayers):
    """A model as its passes call it on a GPU.

    Args:
        model: any; the layers that can be are ours.
        usable: whether any may be.
    """

    def __init__(self, model: PreTrainedModel, usable: bool = True) -> None:
        usable = usable and in_one_kernel()
        super().__init__(model, (decoder, attention, mlp, norm) if usable else ())
        self._modules = list(model.modules()) if self._layers else []
        if self._layers:
            decoder.link(model)

    def __call__(self, **arguments: Any) -> Any:
        """What the model returns.

        A hook may look at any layer, or change what goes into it: where there are some, all runs as
        it would without us.
        """
        if not self._layers or any_hooks(self._modules):
            return self._model(**arguments)
        try:
            return super().__call__(**arguments)
        finally:
            here.ahead = None
