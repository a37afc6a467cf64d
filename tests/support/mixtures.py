"""Tiny mixtures of experts of any family, and what a token passes in them, counted by hand."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

H, ROWS, LAYERS = 32, 40, 2
E, K, WIDE, NARROW = 8, 2, 64, 16  # experts, chosen; width of a dense layer and of an expert
ATTENTION = 2 * H * H + 2 * H * 16  # queries and output; two heads of keys and values
# Latent attention: queries, latents, latents expanded, output; heads of 8 + 8 and of 8 numbers.
LATENT = H * 64 + H * (16 + 8) + 16 * 4 * (8 + 8) + 32 * H
_LATENT = {"kv_lora_rank": 16, "q_lora_rank": None, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}
_LATENT |= {"v_head_dim": 8, "num_key_value_heads": 4, "head_dim": 8, "first_k_dense_replace": 1}
_LATENT |= {"n_routed_experts": E, "n_shared_experts": 1, "moe_intermediate_size": NARROW}
_LATENT |= {"n_group": 1, "topk_group": 1, "topk_method": "greedy", "rope_interleave": True}
_SMALL = {"num_experts": E, "moe_intermediate_size": NARROW}
_LOCAL = {"num_local_experts": E}


def gated(width: int) -> int:
    """Weights of gate, up and down."""
    return 3 * H * width


def routed(width: int) -> int:
    """Weights of a layer's router and of the experts that it chooses for a token."""
    return E * H + K * gated(width)


# What a token passes before the head, by hand, of two layers.
FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "mixtral": (_LOCAL, 2 * (ATTENTION + routed(WIDE))),
    "olmoe": ({"num_experts": E, "num_key_value_heads": 2}, 2 * (ATTENTION + routed(WIDE))),
    "phimoe": (_LOCAL, 2 * (ATTENTION + routed(WIDE))),
    "granitemoe": (_LOCAL, 2 * (ATTENTION + routed(WIDE))),
    "gpt_oss": (_LOCAL | {"sliding_window": 8}, 2 * (ATTENTION + routed(WIDE))),
    # One dense layer, one of experts.
    "qwen3_moe": (
        _SMALL | {"mlp_only_layers": [0], "num_local_experts": E},
        2 * ATTENTION + gated(WIDE) + routed(NARROW),
    ),
    # A shared expert with a gate of one row.
    "qwen2_moe": (
        _SMALL | {"shared_expert_intermediate_size": 24},
        2 * (ATTENTION + routed(NARROW) + gated(24) + H),
    ),
    "deepseek_v2": (_LATENT, 2 * LATENT + gated(WIDE) + routed(NARROW) + gated(NARROW)),
    "deepseek_v3": (_LATENT, 2 * LATENT + gated(WIDE) + routed(NARROW) + gated(NARROW)),
    # A shared expert; transformers multiplies by all experts and throws away all but the chosen.
    "llama4_text": (
        _LOCAL | {"intermediate_size_mlp": WIDE, "interleave_moe_layer_step": 1},
        2 * (ATTENTION + routed(WIDE) + gated(WIDE)),
    ),
}


def mixture(family: str, **more: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": ROWS,
        "hidden_size": H,
        "intermediate_size": WIDE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_experts_per_tok": K,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    config = AutoConfig.for_model(family, **(sizes | FAMILIES[family][0] | more))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return model.eval()
