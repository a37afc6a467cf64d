"""Names under which transformers finds attention of ours.

It looks attention up at every layer, by the name in the model's config. For some passes that is one
of these.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import PreTrainedModel

from .swapped import Swapped

DIRECT_NAME = "steer_decode"  # that of cpu/attention.py
GROUPED_NAME = "steer_decode_grouped"  # that of grouped.py
# What our functions do not know: attention with one of these goes to SDPA.
UNKNOWN = frozenset(("softcap", "s_aux", "position_bias", "head_mask"))
_HELD = "_attn_implementation_internal"  # where a config of transformers keeps the name


def _set_name(config: Any, name: str) -> None:
    """``config._attn_implementation = name`` without the property, which costs 10 us a call.

    If transformers came to keep the name elsewhere, no layer would come to us.
    """
    if type(config).sub_configs:  # which are told, too
        config._attn_implementation = name
    else:
        object.__setattr__(config, _HELD, name)


def named(config: Any, name: str) -> Swapped:
    """A name of ours in a config, for some passes."""
    return Swapped(config, partial(_set_name, config, name), partial(_set_name, config, "sdpa"))


def attention_of(model: PreTrainedModel) -> str:
    """The attention that a model was loaded with.

    "sdpa", "eager" and so on.
    """
    name: str = model.config.get_text_config(decoder=True)._attn_implementation
    return "sdpa" if name in (DIRECT_NAME, GROUPED_NAME) else name
