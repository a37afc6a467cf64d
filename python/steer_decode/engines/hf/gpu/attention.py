"""Attention with RoPE and cache in one kernel.

Between its products and the attention itself a layer of Llama's kind rotates queries and keys and
hands keys and values to the cache, by thirteen operators; Qwen 3 norms heads before, by twelve
more. Here all of that is ``rope_append_``. Which attention follows is what the model was loaded
with, or what the pass has put in its place.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from steer_kernels import layers

from ..cache import KVCache
from ..cache_layer import KVLayer
from ..replaced import in_pass, is_own, is_replaced
from ..same_code import code_of
from . import norm

_PLAIN = {code_of(kind.forward) for kind in (LlamaAttention, Qwen2Attention)}
_NORMED = code_of(Qwen3Attention.forward)  # heads are normed before they are rotated
_NAMES = ("cache", "past_key_values")  # of the cache, in versions of transformers


def forward(attention: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Of an attention layer, in a pass or not."""
    if not args and in_pass():
        found = _attend(attention, hidden_states, **kwargs)
        if found is not None:
            return found
    return type(attention).forward(attention, hidden_states, *args, **kwargs)


def _attend(
    attention: Any,
    hidden_states: Tensor,
    position_embeddings: Any = None,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None] | None:
    """What the layer gives; None, and nothing written, where it is not as we know it."""
    cache = [kwargs.pop(name) for name in _NAMES if name in kwargs]
    name = attention.config._attn_implementation
    if (
        len(cache) != 1
        or not isinstance(cache[0], KVCache)
        or cache[0].state.span.runs
        or attention.training
        or name not in ALL_ATTENTION_FUNCTIONS
        or not _known(attention, hidden_states, position_embeddings)
    ):
        return None
    layer: KVLayer = cache[0].layers[attention.layer_idx]
    found = _rotated(attention, hidden_states, position_embeddings, layer)
    if found is None:
        return None
    if hasattr(attention, "sliding_window"):
        kwargs["sliding_window"] = attention.sliding_window
    out, weights = ALL_ATTENTION_FUNCTIONS[name](
        attention, *found, attention_mask, dropout=0.0, scaling=attention.scaling, **kwargs
    )
    out = out.reshape(*hidden_states.shape[:-1], -1).contiguous()
    return attention.o_proj(out), weights


def _known(attention: Any, x: Tensor, angles: Any) -> bool:
    """Whether ``rope_append_`` can do what the layer would."""
    pair = isinstance(angles, tuple) and len(angles) == 2
    if not (pair and x.dtype in norm.DTYPES and x.ndim == 3):
        return False
    norms = [attention.q_norm, attention.k_norm] if hasattr(attention, "q_norm") else []
    if not all(is_replaced(n, norm.forward) and n.weight.dtype is x.dtype for n in norms):
        return False
    sizes = [(1, x.shape[1], attention.head_dim), (*x.shape[:2], attention.head_dim)]
    return attention.head_dim % 2 == 0 and all(
        tuple(angle.shape) in sizes and angle.dtype is x.dtype and angle.is_contiguous()
        for angle in angles
    )


def _rotated(
    attention: Any, x: Tensor, angles: tuple[Tensor, Tensor], layer: KVLayer
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Rotated queries [B, H, N, D], and all keys and values of the cache that may be read.

    None where a product has another dtype than what goes into it: who has put it there knows why.
    """
    heads = *x.shape[:-1], -1, attention.head_dim
    projections = attention.q_proj, attention.k_proj, attention.v_proj
    q, k, v = (project(x).view(heads).contiguous() for project in projections)
    held = x if layer.keys is None else layer.keys
    if not q.dtype is k.dtype is v.dtype is x.dtype is held.dtype:
        return None
    norms, epsilon = None, 0.0
    if hasattr(attention, "q_norm"):
        norms = attention.q_norm.weight, attention.k_norm.weight
        epsilon = attention.q_norm.variance_epsilon
    indices = layer.ready(k.transpose(1, 2), v.transpose(1, 2))
    assert layer.keys is not None
    assert layer.values is not None
    q = layers.rope_append_(q, k, v, *angles, layer.keys, layer.values, *indices, norms, epsilon)
    return (q.transpose(1, 2), *layer.written())


def served(module: nn.Module) -> bool:
    """Whether :func:`forward` can take the place of a layer's own."""
    own = inspect.unwrap(type(module).forward)
    code = code_of(own)
    if not is_own(module, forward) or not (code in _PLAIN or code == _NORMED):
        return False
    if code == _NORMED and not _alike(module.q_norm, module.k_norm):
        return False
    # Another family may have the same attention with another function of this name.
    rotary = own.__globals__.get("apply_rotary_pos_emb")
    return _rotation(rotary) == _rotation(apply_rotary_pos_emb)


def _alike(*norms: Any) -> bool:
    return all(map(norm.served, norms)) and len({n.variance_epsilon for n in norms}) == 1


def _rotation(function: Any) -> tuple[object, object] | None:
    """What a family's RoPE does, with what it calls."""
    if function is None:
        return None
    half = inspect.unwrap(function).__globals__.get("rotate_half")
    return code_of(function), None if half is None else code_of(half)
