"""A model some of whose layers are ours.

They run by functions of ours for the time of a pass. Before and after a pass the model is as its
user left it. Everything else that runs meanwhile, a user's own ``generate`` in another thread say,
gets what it would get without: the functions act in the thread of the pass only. Hooks of layers
are called as always.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from transformers import PreTrainedModel

from steer_kernels import supported_cpu_isas

from ..swapped import Swapped
from . import linear, norm
from .enabled import enabled
from .linear import here


class DirectLayers:
    """A model whose linear layers and norms are ours.

    They are so in a call; see ``linear.py`` and ``norm.py``.

    Args:
        model: any; the layers that can be are.

    Attributes:
        device: of the model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.device = model.device
        # Without a kernel, the operators are their slow definitions.
        kernel = enabled() and bool(supported_cpu_isas())
        self._layers: list[tuple[dict[str, Any], MethodType]] = [
            (vars(module), MethodType(kind.forward, module))
            for module in (model.modules() if kernel else ())
            for kind in (linear, norm)
            if kind.served(module)
        ]
        self._ours = Swapped(model, self._put, self._restore)

    def _put(self) -> None:
        for attributes, forward in self._layers:
            if "forward" not in attributes:  # whoever has replaced it since keeps his own
                attributes["forward"] = forward

    def _restore(self) -> None:
        for attributes, forward in self._layers:
            held = attributes.pop("forward", forward)
            if held is not forward:
                attributes["forward"] = held

    def __call__(self, **arguments: Any) -> Any:
        """What the model returns. Gradients and autocast are left to torch."""
        if not self._layers or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return self._model(**arguments)
        with self._ours:
            outer, here.in_pass = here.in_pass, True
            try:
                return self._model(**arguments)
            finally:
                here.in_pass = outer
