"""A model some of whose layers are ours.

They run by functions of ours for the time of a pass. Before and after a pass the model is as its
user left it. Everything else that runs meanwhile, a user's own ``generate`` in another thread say,
gets what it would get without: the functions act in the thread of the pass only. Hooks of layers
are called as always.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from transformers import PreTrainedModel

from steer_kernels import supported_cpu_isas

from . import linear, norm
from .enabled import enabled
from .linear import here

_lock = threading.Lock()
# By the id of an owner, which its passes keep alive: how many there are, and what is ours there.
_passes: dict[int, int] = {}
_there: dict[int, list[Swapped]] = {}


class Swapped:
    """Something of ours in a model while passes need it.

    The first pass puts it there, and the last one that ends takes it out, in whatever threads they
    run. Passes that put different things into one owner are counted together, so that none of it
    stays behind.

    Args:
        owner: what is changed: the model, or its config.
        put: puts ours in place.
        restore: puts back what was there.
    """

    def __init__(self, owner: object, put: Callable[[], None], restore: Callable[[], None]) -> None:
        self._owner, self._key = owner, id(owner)
        self._put, self._restore = put, restore

    def __enter__(self) -> None:
        key = self._key
        with _lock:
            others = _passes.get(key, 0)
            _passes[key] = others + 1
            if not others:
                _there[key] = [self]
            elif self in _there[key]:
                return
            else:
                _there[key].append(self)
            self._put()

    def __exit__(self, *_: object) -> None:
        key = self._key
        with _lock:
            others = _passes[key] - 1
            if others:
                _passes[key] = others
                return
            del _passes[key]
            for swapped in _there.pop(key):
                swapped._restore()


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
