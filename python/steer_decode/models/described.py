"""A model by its config alone.

Its sizes, its dtype, the ids that end its answers.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..core.transcript import Writer
from .vocabulary import eos_of


def on_meta(config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a config, whose weights are nowhere."""
    with ExitStack() as stack:
        stack.enter_context(torch.device("meta"))
        try:  # transformers 4 spends a minute on the first values of thousands of experts
            from transformers.modeling_utils import no_init_weights

            stack.enter_context(no_init_weights())
        except ImportError:
            pass
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
        model.tie_weights()
        return model


def dtype_of(config: Any) -> torch.dtype:
    """The dtype of the weights.

    It is float32 where the config says nothing.
    """
    found = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    if isinstance(found, str):
        found = getattr(torch, found.removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) and found.is_floating_point else torch.float32


def eos_ids(
    writer: Writer,
    config: Any,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    options: dict[str, Any],
) -> frozenset[int]:
    """Ids that end an answer.

    By the generation config, or the config, and by the tokenizer.

    Raises:
        SteerError: one of them is no token id.
    """
    try:
        generation: Any = GenerationConfig.from_pretrained(source, **options)
    except (OSError, ValueError, TypeError):  # there is none, as transformers allows
        generation = config.get_text_config(decoder=True)
    ids = eos_of(f"the {writer} model's generation config", generation)
    return frozenset(ids + eos_of(f"the {writer} model's tokenizer", tokenizer))
