"""Folders with a config and a tokenizer, and no weights: what `steer check` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.tiny import make_tokenizer
from transformers import AutoConfig

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def folder(
    root: Path, family: str, words: list[str] | None = None, template: str = "", **sizes: Any
) -> str:
    """A model folder with a config and a tokenizer."""
    place = root / f"{family}-{len(list(root.iterdir()))}"
    config = AutoConfig.for_model(family, **(SIZES | sizes))
    quantization = sizes.pop("quantization_config", None)
    config.save_pretrained(place)
    if quantization:
        facts = json.loads((place / "config.json").read_text())
        facts["quantization_config"] = quantization
        (place / "config.json").write_text(json.dumps(facts))
    tokenizer = make_tokenizer(words)
    tokenizer.chat_template = template or None
    tokenizer.save_pretrained(place)
    return str(place)
