"""Attention on a CPU, which needs no mask.

That of decode steps is `decode_attention`, that of parts of prompts ``part_attention``. SDPA reads
every key and value once for each query head, and needs a mask wherever rows differ in length.
``steer_kernels.decode_attention`` reads them once for each key head, and each row its own length
only. Passes of a few new tokens over a :class:`KVCache` on the CPU take it; longer ones of rows
that are alike take ``part_attention``. Stay with transformers: long passes with windows or over
rows of different length, other devices, models loaded with other attention than "sdpa", and what
these functions do not know (soft caps, sinks, dropout).

transformers looks its attention up by the name in the model's config, at every layer. For the time
of such a pass the name is ours. Everything else that runs meanwhile, a user's own ``generate`` in
another thread say, gets what it would get under "sdpa": the function acts on keys that our cache
has marked only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from steer_kernels import supported_cpu_isas

from ..attention_name import DIRECT_NAME, UNKNOWN, attention_of, named
from ..cache import KVCache
from ..cache_layer import EndOfPass
from ..span import Span
from .cache import DirectCache, layer_of
from .prompt_attention import part_attention

MOST_QUERIES = 16  # new tokens a row; beyond, SDPA's blocks of queries are faster
# Without the wrapper, which only words errors: what comes here has been checked.
_decode_attention = torch.ops.steer_kernels.decode_attention.default
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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
    """An attention function of transformers: query [B, H, N, D] to [B, N, H, Dv].

    Of a packed pass, query [1, H, T, D] to [1, T, H, Dv].
    """
    layer = layer_of(key)
    known = UNKNOWN.isdisjoint(kwargs) or all(kwargs.get(name) is None for name in UNKNOWN)
    if layer is None or not known or dropout or not query.dtype == key.dtype == value.dtype:
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        result: tuple[Tensor, Tensor | None] = sdpa(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return result
    state, window = layer.state, layer.window
    state.served += 1
    span = state.span
    if span.runs:
        return _attend_packed(query, key, value, span, scaling, window), None
    if query.shape[2] > MOST_QUERIES:
        return part_attention(query, key, value, span.start, scaling), None
    return _decode_attention(query, key, value, span.starts, scaling, window), None


def _attend_packed(
    query: Tensor, key: Tensor, value: Tensor, span: Span, scale: float | None, window: int | None
) -> Tensor:
    outputs = []
    for run in span.runs:
        # Views: [1, H, T, D] of the tokens of n rows is [n, H, N, D].
        queries = query[0, :, run.tokens].unflatten(1, (-1, run.each)).transpose(0, 1)
        keys, values = key[run.rows], value[run.rows]
        if run.each <= MOST_QUERIES:
            outputs.append(_decode_attention(queries, keys, values, run.starts, scale, window))
            continue
        for i, start in enumerate(run.marks):
            row = slice(i, i + 1)
            outputs.append(part_attention(queries[row], keys[row], values[row], start, scale))
    return torch.cat([output.flatten(0, 1) for output in outputs])[None]


ALL_ATTENTION_FUNCTIONS.register(DIRECT_NAME, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(DIRECT_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


class DirectAttention:
    """Passes of one model whose attention is `decode_attention`.

    They run over one cache.

    Args:
        model: what it asks about attention, dtype and device.
        call: the model, or what calls it.
        cache: the passes' keys and values; where it is no :class:`DirectCache`, none is served.
        usable: whether it may serve at all.

    Attributes:
        usable: whether it serves, as far as is known.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        call: Callable[..., Any],
        cache: KVCache,
        usable: bool = True,
    ) -> None:
        self._call = call
        self._state = cache.state if isinstance(cache, DirectCache) else None
        self._named = named(model.config.get_text_config(decoder=True), DIRECT_NAME)
        self.usable = (
            usable
            and self._state is not None
            and model.dtype in _DTYPES
            and attention_of(model) == "sdpa"
            and getattr(model, "_supports_attention_backend", False)
            and bool(supported_cpu_isas())  # else the operator is its slow definition
        )
        self._windows = {layer.window for layer in cache.layers}
        # Nothing reads it: a mask of four dimensions spares transformers the making of one.
        self._mask = torch.zeros(1, 1, 1, 1, dtype=model.dtype)

    def serves(self, span: Span, queries: int) -> bool:
        """Whether a pass of this size goes this way.

        The cache has begun it; it has at most ``queries`` new tokens a row.
        """
        if queries <= MOST_QUERIES or not self.usable:
            return self.usable
        return not span.ragged and self._reads_all(span.width)

    def packs(self, queries: int, width: int) -> bool:
        """Whether a packed pass of this size may be tried.

        It has at most ``queries`` new tokens a row. ``width`` is the length of the longest row
        after it.
        """
        return self.usable and (queries <= MOST_QUERIES or self._reads_all(width))

    def _reads_all(self, width: int) -> bool:
        """Whether no window cuts anything off, which long passes would need a mask for."""
        return all(window is None or window >= width for window in self._windows)

    def logits(self, arguments: dict[str, Any]) -> Tensor | None:
        """The logits of a pass that needs no mask.

        The cache has begun it. They are void if it ends early. Returns None where a layer's
        attention did not come to us. What was read is then to be read again in another way, which
        writes the same positions, and no further pass is served.
        """
        state = self._state
        assert state is not None
        state.direct, state.served, wanted = True, 0, state.layers
        try:
            with self._named:
                logits: Tensor = self._call(**arguments, attention_mask=self._mask).logits
        except EndOfPass:
            logits, wanted = self._mask, wanted - 1
        except (RuntimeError, ValueError):
            # The keys of a packed pass are of another shape than its queries. Attention that did
            # not come to us does not know that.
            if not state.span.runs or state.served == state.layers:
                raise
        finally:
            state.direct = False
        self.usable = state.served == wanted
        return logits if self.usable else None
