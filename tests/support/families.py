"""Tiny models of families that differ from the usual, made on the spot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from steer_decode import Pair
from support.tiny import VOCABULARY, make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.4,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 1,
}


def made(auto: Any, family: str, seed: int, attention: str | None = None, **more: Any) -> Any:
    """A model by ``auto`` from the sizes above and those of the family."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **SIZES | more)
    options = {"attn_implementation": attention} if attention else {}
    model = auto.from_config(config, **options).eval()
    with torch.no_grad():  # the end is to come, but seldom at once
        model.get_output_embeddings().weight[1] *= 0.1
    return model


def causal(family: str, seed: int, attention: str | None = None, **more: Any) -> PreTrainedModel:
    """A causal language model of ``family``."""
    model: PreTrainedModel = made(AutoModelForCausalLM, family, seed, attention, **more)
    return model


def gpt_neo(seed: int) -> PreTrainedModel:
    """Every second layer sees the last 64 tokens alone, by a mask cut out at the cache's length."""
    kinds = [[["global", "local"], 1]]
    return causal("gpt_neo", seed, num_layers=2, num_heads=4, attention_types=kinds, window_size=64)


def bloom(seed: int) -> PreTrainedModel:
    """ALiBi: positions are read off a mask of two dimensions. Its weights are spread out."""
    model = causal("bloom", seed, n_layer=2, n_head=4)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.3)
    return model


def doge(seed: int, attention: str = "sdpa") -> PreTrainedModel:
    """Its attention makes a mask of its own, which does nothing until it has been trained."""
    model = causal("doge", seed, attention)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(".A"):
                weight.normal_()
    return model


def no_cache(seed: int) -> PreTrainedModel:
    """GPT-1 reads a text in one piece or not at all."""
    return causal("openai-gpt", seed, n_positions=512, n_embd=32, n_layer=2, n_head=4)


def longrope(seed: int, boundary: int, family: str = "phi3", **more: Any) -> PreTrainedModel:
    """RoPE with other frequencies for texts of more than ``boundary`` tokens."""
    rope = {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": boundary,
        "rope_theta": 10000.0,
    }
    if family == "phi3":
        more["original_max_position_embeddings"] = boundary
    return causal(family, seed, **rope_config(rope), max_position_embeddings=2048, **more)


def stretched(seed: int, kind: str, length: int = 64, factor: float = 4.0) -> PreTrainedModel:
    """Qwen2 with scaled RoPE; ``length`` is its context before scaling."""
    rope = {"rope_type": kind, "factor": factor, "rope_theta": 10000.0}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = length
    return causal("qwen2", seed, **rope_config(rope), max_position_embeddings=length)


# transformers 4 writes these configurations in another way, reads BLOOM without `logits_to_keep`,
# and has a Doge that looks ahead: such models are refused by name there, or end at the unscaled
# length.
needs_transformers_5 = pytest.mark.skipif(
    int(transformers.__version__.partition(".")[0]) < 5,
    reason="transformers 4 has these models in another form: they are refused or end earlier",
)


def rope_name() -> str:
    """What configs of transformers 5, or 4, call the parameters of rotary positions."""
    return (
        "rope_parameters"
        if int(transformers.__version__.partition(".")[0]) >= 5
        else "rope_scaling"
    )


def rope_config(rope: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a config of transformers 5, or 4."""
    return {rope_name(): rope}


def pair_of(small: PreTrainedModel, large: PreTrainedModel) -> Pair:
    """A pair with the tokenizer of the tests."""
    return Pair(small, large, make_tokenizer())


def greedy(model: Any, ids: list[int], tokens: int, **options: Any) -> list[int]:
    """What ``generate`` of transformers writes after ``ids``."""
    text = torch.tensor([ids])
    options = {"attention_mask": torch.ones_like(text), "pad_token_id": 1} | options
    out = model.generate(input_ids=text, max_new_tokens=tokens, do_sample=False, **options)
    written: list[int] = out[0, len(ids) :].tolist()
    return written
