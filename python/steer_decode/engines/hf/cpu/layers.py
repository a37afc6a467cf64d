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


class _UnderWay:
    """Passes that need ours in one owner: how many, and what they have put there."""

    def __init__(self) -> None:
        self.passes = 0
        self.put: set[Swapped] = set()


_under_way: dict[int, _UnderWay] = {}  # by the id of the owner, which its passes keep alive


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
        self._owner, self._put, self._restore = owner, put, restore

    def __enter__(self) -> None:
        key = id(self._owner)
        with _lock:
            under_way = _under_way.get(key)
            if under_way is None:
                under_way = _under_way[key] = _UnderWay()
            under_way.passes += 1
            if self not in under_way.put:
                under_way.put.add(self)
                self._put()

    def __exit__(self, *_: object) -> None:
        key = id(self._owner)
        with _lock:
            under_way = _under_way[key]
            under_way.passes -= 1
            if not under_way.passes:
                del _under_way[key]
                for swapped in under_way.put:
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
            # Whoever has replaced a layer's since keeps his own.
            attributes.setdefault("forward", forward)

    def _restore(self) -> None:
        for attributes, forward in self._layers:
            if attributes.get("forward") is forward:
                del attributes["forward"]

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
