"""Passes without gradients, also where hooks learn from them.

``torch.inference_mode`` is the fastest, but its tensors can never enter a loss. Where a model has
hooks, which see tensors of its passes, ``torch.no_grad`` takes its place. Buffers that outlive an
answer are ordinary tensors, so that both can write them.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as _torch


def without_gradients(*models: nn.Module) -> AbstractContextManager[Any]:
    """A context without gradients, for passes of ``models``.

    ``torch.inference_mode``, or ``torch.no_grad`` if one of the models has hooks.
    """
    return torch.no_grad() if any(map(has_hooks, models)) else torch.inference_mode()


def has_hooks(model: nn.Module) -> bool:
    """Whether a user's function sees tensors of a pass.

    That is, what goes into a module of ``model``, or comes out.
    """
    return any_hooks(model.modules())


def any_hooks(modules: Iterable[nn.Module]) -> bool:
    """As :func:`has_hooks`, of modules.

    To walk a model takes fifty times as long as to look at its modules.
    """
    if _torch._global_forward_hooks or _torch._global_forward_pre_hooks:
        return True
    return any(m._forward_hooks or m._forward_pre_hooks for m in modules)
