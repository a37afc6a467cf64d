"""Attention with a mask over grouped keys, none repeated.

transformers gives torch's SDPA a mask and the keys of a group only after it has copied them for
each head of the group (``repeat_kv``): with seven heads a group a decode step then reads the cache
once and writes and reads it seven times more. Here the heads of a group are given to SDPA as
further queries of one head, which is the same product: query [B, G g, N, D] as [B, G, g N, D], and
the mask [B, 1, N, W] for each of the g. So keys and values are read as they lie.

It serves passes of a few new tokens a row that need a mask, on devices other than the CPU, which
has ``decode_attention``. transformers looks attention up by a name in the model's config; for the
time of a pass that is ours, and only for the thread that makes it: any other gets SDPA.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .attention_name import GROUPED_NAME, UNKNOWN, attention_of, named

MOST_QUERIES = 16  # new tokens a row: beyond, a copy of the keys is little beside the products
_here = threading.local()


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """An attention function of transformers: query [B, H, N, D] to [B, N, H, Dv]."""
    known = all(kwargs.get(name) is None for name in UNKNOWN)
    heads, groups = query.shape[1], key.shape[1]
    ours = getattr(_here, "passes", 0) > 0 and known and not dropout and heads > groups
    if ours and heads % groups == 0 and attention_mask is not None and attention_mask.shape[1] == 1:
        return _grouped(query, key, value, attention_mask[..., : key.shape[2]], scaling), None
    result: tuple[Tensor, Tensor | None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return result


def _grouped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None
) -> Tensor:
    groups, new = key.shape[1], query.shape[2]
    each = query.shape[1] // groups
    folded = query.unflatten(1, (groups, each)).flatten(2, 3)  # [B, G, g N, D]
    if new > 1:
        mask = mask.repeat(1, 1, each, 1)  # of all heads of a group, one after another
    out = torch.nn.functional.scaled_dot_product_attention(
        folded, key, value, attn_mask=mask, scale=scaling
    )
    return out.unflatten(2, (each, new)).flatten(1, 2).transpose(1, 2).contiguous()


ALL_ATTENTION_FUNCTIONS.register(GROUPED_NAME, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(GROUPED_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


class GroupedAttention:
    """Passes of one model with a mask.

    Attributes:
        usable: whether any of them comes here: the model is on another device than the CPU, was
            loaded with "sdpa", and calls attention by its name.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._named = named(model.config.get_text_config(decoder=True), GROUPED_NAME)
        self.usable = (
            model.device.type != "cpu"
            and attention_of(model) == "sdpa"
            and bool(getattr(model, "_supports_attention_backend", False))
        )

    @contextmanager
    def during(self, queries: int) -> Iterator[None]:
        """Have a pass come here, if it may.

        ``queries``: its new tokens a row.
        """
        if not self.usable or queries > MOST_QUERIES:
            yield
            return
        _here.passes = getattr(_here, "passes", 0) + 1
        try:
            with self._named:
                yield
        finally:
            _here.passes -= 1
