"""Forward passes of one model over one KV cache.

Here it is said which attention serves, and what mask it is given. The cache has begun a pass and
knows its span; here the model is called. Three ways lead through it:

- a few new tokens a row on a CPU: `decode_attention`, without a mask (``cpu/attention.py``);
- the same for rows with different numbers of new tokens: *packed*, one after another as if they
  were one text, so that nothing is padded and the weights are read once;
- all else: the attention that the model was loaded with, and a mask where rows differ; on a GPU
  without repeated keys (``grouped.py``).

In each of them matrix products and norms are ours on a CPU (``cpu``), and on a GPU what a layer
does between its products (``gpu``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from . import cpu, gpu
from .attention_name import attention_of
from .cache import KVCache
from .cache_layer import EndOfPass
from .cache_support import cache_argument
from .cpu import DirectAttention
from .grouped import GroupedAttention
from .replaced import ReplacedLayers
from .span import Span, ragged_mask

_MASKED = ("eager", "sdpa")  # attention that takes a 4-D mask


class Forward:
    """The model as a function of new token ids.

    What its cache holds stands before them.

    Args:
        model: a causal language model that passes ``cache_support.check_cache_support``.
        windows: of its layers, as in :class:`KVCache`.
        cache: of which a pass has begun whenever a method is called.
        direct: whether `decode_attention` may serve on a CPU, and our layers on a GPU.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        windows: Sequence[int | None],
        cache: KVCache,
        direct: bool = True,
    ) -> None:
        fused = gpu.serves(model.device)
        self._call: ReplacedLayers = gpu.patched(model, direct) if fused else cpu.patched(model)
        self._cache = cache
        self._cache_argument = cache_argument(model)
        self._windows = set(windows)
        self._attention = attention_of(model)
        # torch makes numbers of a mask that is bool, for each layer anew, by three kernels.
        additive = self._attention == "eager" or (fused and direct and gpu.enabled())
        self._additive = model.dtype if additive else None
        self._direct = DirectAttention(model, self._call, cache, direct)
        self._grouped = GroupedAttention(model)

    @property
    def direct(self) -> bool:
        """Whether short passes go to `decode_attention`.

        As far as is known.
        """
        return self._direct.usable

    @direct.setter
    def direct(self, usable: bool) -> None:
        self._direct.usable = usable

    @property
    def takes_masks(self) -> bool:
        """Whether rows of different length run in one pass.

        They do where attention takes a 4-D mask.
        """
        return self._attention in _MASKED

    def packs(self, longest: int, width: int) -> bool:
        """Whether :meth:`packed` can be tried.

        A row has at most ``longest`` new tokens. ``width`` is the length of the longest row after
        it.
        """
        return self._direct.packs(longest, width)

    def logits(self, ids: Tensor, span: Span, keep: int = 0) -> Tensor:
        """Logits [n, V] behind the last of ``ids`` [n, N].

        They are void if padded. ``span`` is the one that the cache has begun. With ``keep``, the
        logits [n, keep, V] behind so many of the last.
        """
        length = ids.shape[1]
        arguments = self._arguments(ids, max(1, keep))
        logits = self._direct.logits(arguments) if self._direct.serves(span, length) else None
        if logits is None:
            if span.ragged:
                arguments["attention_mask"] = self._mask(span, length)
                with self._grouped.during(length):
                    logits = self._call(**arguments).logits
            else:
                logits = self._call(**arguments).logits
        # select: an index of two parts is two operators.
        return logits[:, -keep:] if keep else logits.select(1, -1)

    def fill(self, ids: Tensor, span: Span) -> None:
        """Read ``ids`` [n, N] for their keys and values.

        Else as :meth:`logits`. What comes after the last layer's is not computed: its attention,
        its products, the head.
        """
        state = self._cache.state
        state.ends_early, state.written = True, 0
        try:
            self.logits(ids, span)
        except EndOfPass:
            pass
        finally:
            state.ends_early = False

    def packed(self, ids: Tensor, last: Tensor) -> Tensor | None:
        """Logits [n, V] behind the ends of packed rows.

        ``last`` [n] are the places of these ends in ``ids`` [1, T]. None where the model's
        attention did not come to `decode_attention`: nothing counts as read.
        """
        logits = self._direct.logits(self._arguments(ids, last))
        return None if logits is None else logits[0]

    def _arguments(self, ids: Tensor, logits_to_keep: int | Tensor) -> dict[str, Any]:
        return {
            "input_ids": ids,
            "position_ids": self._cache.positions(ids.shape[1]),
            self._cache_argument: self._cache,
            "use_cache": True,
            "logits_to_keep": logits_to_keep,
        }

    def _mask(self, span: Span, length: int) -> Tensor | dict[str, Tensor]:
        masks = {w: ragged_mask(span, length, w, self._additive) for w in self._windows}
        if len(masks) == 1:
            return next(iter(masks.values()))
        # Models that mix kinds of layers take a mask for each kind.
        return {"full_attention" if w is None else "sliding_attention": masks[w] for w in masks}
