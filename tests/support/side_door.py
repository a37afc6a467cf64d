"""What the tests of ``custom_generate`` share: a pair, prompts with pads, and both doors."""

from __future__ import annotations

from typing import Any

import torch
from steer_decode import Pair, Policy, Router
from support.tiny import VOCABULARY, make_model, make_tokenizer, prompt_ids
from transformers import PreTrainedModel

WORDS = len(VOCABULARY)
LIMIT = 40


def even_pair(family: str = "llama", seed: int = 0) -> Pair:
    """A pair whose heads have no padding rows, which ``generate`` itself might choose."""
    small = make_model(family, seed, rows=WORDS)
    return Pair(small, make_model(family, seed + 1, layers=3, rows=WORDS), make_tokenizer())


PAIR = even_pair()


def batch(*lengths: int, pad: int = 0) -> dict[str, torch.Tensor]:
    """Random prompts with pads on the left."""
    rows = [prompt_ids(i, n) for i, n in enumerate(lengths)]
    width = max(lengths)
    return {
        "input_ids": torch.tensor([[pad] * (width - len(r)) + r for r in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows]),
    }


ONE = batch(12)
THREE = batch(12, 5, 9)


def door(policy: Policy, inputs: dict[str, Any], pair: Pair = PAIR, **options: Any) -> Any:
    options = {"max_new_tokens": LIMIT, **options}
    return pair.small.generate(**inputs, custom_generate=Router(pair, policy), **options)


def plain(model: PreTrainedModel, inputs: dict[str, Any], **options: Any) -> Any:
    return model.generate(**inputs, **{"max_new_tokens": LIMIT, **options})
