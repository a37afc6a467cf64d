"""A lane: one model, its KV cache, and a watermark of how much of the transcript it has read.

Everything that a model does in routed decoding is one call. ``catch_up`` reads the tokens between
the watermark and the end of the transcript and returns the logits of the next token: for a prompt
that is everything, for a decode step one token, for a hand-over what the other model wrote.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from .cost import ModelShape, Usage
from .errors import SteerError
from .transcript import Transcript


class Lane:
    """A model, its KV cache and its watermark, for one conversation.

    Attributes:
        watermark: tokens of the transcript whose keys and values are in the cache.
        usage: what the model has read and computed so far.
    """

    def __init__(self, model: PreTrainedModel, shape: ModelShape) -> None:
        self._model = model
        self._shape = shape
        # Without a config every layer keeps all of its keys, those with a sliding window too; the
        # window is then enforced by the mask alone, which is what lets the watermark move back.
        self._cache = DynamicCache()
        self._cache_argument = cache_argument(model)
        self._logits: Tensor | None = None
        self.watermark = 0
        self.usage = Usage()

    def pending(self, transcript: Transcript) -> int:
        """Tokens of ``transcript`` that this lane has not read."""
        return len(transcript) - self.watermark

    @torch.inference_mode()
    def catch_up(self, transcript: Transcript) -> Tensor:
        """Reads what is pending; returns the next token's raw logits [1, V], in the model's dtype.

        With nothing pending it returns what the last call returned, without a forward pass.
        """
        if self.pending(transcript) == 0:
            if self._logits is not None:
                return self._logits
            # Rolled back to just here: the last token is read again for its logits.
            self.roll_back(self.watermark - 1)
        new = transcript.ids[self.watermark :]
        end = self.watermark + len(new)
        device = self._model.device
        arguments: dict[str, Any] = {
            "input_ids": torch.tensor([new], device=device),
            "position_ids": torch.arange(self.watermark, end, device=device)[None],
            self._cache_argument: self._cache,
        }
        self._logits = self._model(**arguments, use_cache=True, logits_to_keep=1).logits[:, -1]
        self.usage.add_forward(self._shape, new=len(new), past=self.watermark)
        self.watermark = end
        return self._logits

    def roll_back(self, length: int) -> None:
        """Forgets what was read beyond the first ``length`` tokens of the transcript."""
        if length < 0:
            raise ValueError(f"length must be at least 0, got {length}")
        if length < self.watermark:
            # Negative: tokens to remove. It is the one form that transformers 4 and 5 share.
            self._cache.crop(length - self.watermark)
            self.watermark = length
            self._logits = None


def cache_argument(model: PreTrainedModel) -> str:
    """What ``model.forward`` calls its KV cache: transformers 5.24 renamed it."""
    names = inspect.signature(model.forward).parameters
    return "cache" if "cache" in names else "past_key_values"


def check_cache_support(model: PreTrainedModel, name: str) -> None:
    """Refuses models whose state cannot be cut back to a watermark.

    Raises:
        SteerError: the model has linear-attention, recurrent or chunked layers.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    foreign = kinds - {"full_attention", "sliding_attention"}
    if foreign or getattr(model, "_is_stateful", False):
        what = ", ".join(sorted(foreign)) or "recurrent state"
        raise SteerError(
            f"{name} model {model.config.name_or_path or type(model).__name__!r} keeps {what}, "
            "which cannot be rolled back to a watermark: use a model with full or "
            "sliding-window attention only"
        )
