"""A decoder layer whose sums are norms as well.

See ``norm.py``.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from ..replaced import in_pass, is_own
from ..same_code import code_of
from .norm import add

_LLAMA = code_of(LlamaDecoderLayer.forward)
# Of each layer the norm that its result goes to, as far as is known.
_next_norm: weakref.WeakKeyDictionary[nn.Module, nn.Module] = weakref.WeakKeyDictionary()


def forward(layer: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Of a decoder layer, in a pass or not."""
    if args or not in_pass():
        return type(layer).forward(layer, hidden_states, *args, **kwargs)
    residual = hidden_states
    x = layer.input_layernorm(residual)
    x, _ = layer.self_attn(hidden_states=x, **kwargs)
    residual = add(x, residual, layer.post_attention_layernorm)
    x = layer.mlp(layer.post_attention_layernorm(residual))
    return add(x, residual, _next_norm.get(layer))


def served(module: nn.Module) -> bool:
    """Whether :func:`forward` can take the place of a layer's own."""
    return code_of(type(module).forward) == _LLAMA and is_own(module, forward)


def link(model: nn.Module) -> None:
    """Learn which norm comes behind each layer of ``model``."""
    for layer, norm in _neighbours(model):
        _next_norm[layer] = norm


def _neighbours(model: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    for module in model.modules():
        stack, last = getattr(module, "layers", None), getattr(module, "norm", None)
        if not isinstance(stack, nn.ModuleList) or not all(map(served, stack)):
            continue
        for layer, following in pairwise(stack):
            yield layer, following.input_layernorm
        if len(stack) and isinstance(last, nn.Module):
            yield stack[-1], last
