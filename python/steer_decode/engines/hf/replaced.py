"""Layers that are ours for the time of a pass.

They run by functions of ours. Before and after a pass the model is as its user left it. Everything
else that runs meanwhile, a user's own ``generate`` in another thread say, gets what it would get
without: the functions act in the thread of the pass only. Hooks of layers are called as always.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedModel

from .swapped import Swapped


class _Here(threading.local):
    in_pass = False
    ahead: Any = None  # what a layer has computed for one that is still to be called (gpu/norm.py)


here = _Here()  # whether this thread is in a pass of ours


def in_pass() -> bool:
    """Whether a layer is to run as ours now.

    torch.compile makes its own of it.
    """
    return not torch.compiler.is_compiling() and here.in_pass


class Replacement(Protocol):
    """A module with a function for the place of ``forward``."""

    forward: Callable[..., Any]

    def served(self, module: nn.Module) -> bool:
        """Whether it can take the place of this one's."""


def is_replaced(module: nn.Module, forward: Callable[..., Any]) -> bool:
    """Whether a layer runs by a function of ours now."""
    held = vars(module).get("forward")
    return held is not None and getattr(held, "__func__", None) is forward


def is_own(module: nn.Module, forward: Callable[..., Any]) -> bool:
    """Whether a layer runs as its class says.

    Or by ``forward``, in a pass of ours of some thread.
    """
    return "forward" not in vars(module) or is_replaced(module, forward)


class ReplacedLayers:
    """A model whose layers are ours in a call.

    Args:
        model: any; the layers that can be are.
        kinds: of layers that are ours.

    Attributes:
        device: of the model.
    """

    def __init__(self, model: PreTrainedModel, kinds: Sequence[Replacement]) -> None:
        self._model = model
        self.device = model.device
        self._layers: list[tuple[dict[str, Any], MethodType]] = [
            (vars(module), MethodType(kind.forward, module))
            for module in (model.modules() if kinds else ())
            for kind in kinds
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
        if not self._layers or torch.is_grad_enabled():
            return self._model(**arguments)
        if torch.is_autocast_enabled(self.device.type):
            return self._model(**arguments)
        with self._ours:
            outer, here.in_pass = here.in_pass, True
            try:
                return self._model(**arguments)
            finally:
                here.in_pass = outer
