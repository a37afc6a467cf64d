"""Which models of transformers can use our cache.

And what those that can call it.
"""

from __future__ import annotations

import inspect
from functools import cache

from transformers import PreTrainedModel

from ...errors import SteerError
from .wrapped import unwrapped

NO_ROLL_BACK = (
    "which cannot be rolled back to a read mark: use a model with full or sliding-window attention "
    "only"
)


def cache_argument(model: PreTrainedModel) -> str:
    """What ``model.forward`` calls its KV cache: transformers 5.24 renamed it."""
    kind: type[PreTrainedModel] = type(unwrapped(model))
    return _cache_argument(kind)  # type: ignore[arg-type]  # classes are hashable


@cache  # reading a signature takes as long as a token of a small model
def _cache_argument(kind: type[PreTrainedModel]) -> str:
    names = inspect.signature(kind.forward).parameters
    return "cache" if "cache" in names else "past_key_values"


def keeps_no_cache(model: PreTrainedModel) -> bool:
    """Whether ``model.forward`` takes no KV cache at all."""
    return not {"cache", "past_key_values"} & set(inspect.signature(type(model).forward).parameters)


def foreign_state(model: PreTrainedModel) -> str:
    """What a model keeps beside keys and values.

    By its config; empty if it keeps nothing else of its text.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    foreign = kinds - {"full_attention", "sliding_attention"}
    if foreign or getattr(model, "_is_stateful", False):
        return ", ".join(sorted(foreign)) or "recurrent state"
    return ""


def check_cache_support(model: PreTrainedModel, name: str) -> None:
    """Refuse models whose state cannot be cut back.

    A roll-back cuts it back to a read mark.

    Raises:
        SteerError: the model has linear-attention, recurrent or chunked layers.
    """
    what = foreign_state(model)
    if what:
        raise SteerError(
            f"{name} model {model.config.name_or_path or type(model).__name__!r} keeps {what}, "
            f"{NO_ROLL_BACK}"
        )
