"""A model some of whose layers are ours.

They run by functions of ours for the time of a pass. Before and after a pass the model is as its
user left it. Everything else that runs meanwhile, a user's own ``generate`` in another thread say,
gets what it would get without: the functions act in the thread of the pass only. Hooks of layers
are called as always.
"""

from __future__ import annotations

import threading
from types import MethodType
from typing import Any

import torch
from transformers import PreTrainedModel

from steer_kernels import supported_cpu_isas

from . import linear, norm
from .enabled import enabled
from .linear import here

_lock = threading.Lock()
_passes: dict[int, int] = {}  # passes under way, by the id of the model


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

    def __call__(self, **arguments: Any) -> Any:
        """What the model returns. Gradients and autocast are left to torch."""
        if not self._layers or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return self._model(**arguments)
        key, outer = id(self._model), here.in_pass
        with _lock:
            _passes[key] = _passes.get(key, 0) + 1
            for attributes, forward in self._layers:
                attributes["forward"] = forward
        here.in_pass = True
        try:
            return self._model(**arguments)
        finally:
            here.in_pass = outer
            with _lock:
                _passes[key] -= 1
                if not _passes[key]:
                    del _passes[key]
                    for attributes, _ in self._layers:
                        attributes.pop("forward", None)
