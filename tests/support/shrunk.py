"""Any family of transformers as a tiny model: the sizes that its config knows, made small."""

from __future__ import annotations

import re
from typing import Any

import torch
from support.tiny import VOCABULARY
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

# By the end of an attribute's name, the first that fits.
_SMALL: tuple[tuple[str, Any], ...] = (
    (r"vocab_size(_per_layer_input)?|text_vocab_size", len(VOCABULARY)),
    (r"(pad|eos|sep|decoder_start)_token_id", 1),
    (r"(cls|mask|forced_bos|forced_eos)_token_id|forced_[be]os_token_id", None),
    (r"moe_intermediate_size|expert_ffn_hidden_size|shared_expert_intermediate_size", 16),
    (r"intermediate_size|ffn_dim|n_inner|d_ff|ffn_hidden_size|ffn_size|dim_ff|inner_dim", 64),
    (r"d_embed|d_model|n_embd|hidden_size|embedding_size|emb_dim", 32),
    (r"hidden_size_per_layer_input", 8),
    (r"num_kv_shared_layers|num_nextn_predict_layers|num_mtp_layers", 0),
    (r"num_hidden_layers|n_layers?|num_layers|(en|de)coder_layers|n_layer_total|depth", 2),
    (r"num_key_value_heads|num_kv_heads|n_kv_heads|num_global_key_value_heads", 2),
    (r"attention_heads|n_heads?|num_heads|n_head", 4),
    (r"rotary_dim", 4),
    (r"kv_channels|(qk_nope_|qk_rope_|v_|global_)?head_dim|d_kv", 8),
    (r"(q|kv)_lora_rank", 16),
    (r"n_positions|n_ctx|max_seq_len|max_sequence_length|max_position_embeddings", 512),
    (r"num_experts_per_tok|moe_top_?k|moe_k|top_k_experts|moe_topk|num_experts_per_token", 2),
    (r"num_(local_|routed_)?experts|n_routed_experts|moe_num_experts", 4),
    (r"n_group|topk_group|n_shared_experts|first_k_dense_replace|num_shared_experts", 1),
    (r"sliding_window|sliding_window_size|local_attention|window_size", 8),
    (r"initializer_range|init_std", 0.4),
    (r"(attention|resid|embd|hidden|attn|activation).*_(dropout|pdrop)(_prob)?|dropout", 0.0),
    (r"image_size", 28),
    (r"patch_size", 14),
)
_NAMES = {re.compile(rf"(.*_)?({pattern})"): value for pattern, value in _SMALL}


def config_of(family: str, **more: Any) -> Any:
    """The config of ``family`` with small sizes; ``more`` is laid over them."""
    kind = CONFIG_MAPPING[family]
    sizes = _small(kind)
    parts = {}
    for name, part in getattr(kind, "sub_configs", {}).items():
        try:
            own = _small(part)
        except Exception:
            continue
        parts[name] = own
        if name == "text_config":
            own |= {key: more.pop(key) for key in list(more) if key in own}
    return kind(**sizes | parts | {"is_decoder": True, "tie_word_embeddings": False} | more)


def _small(kind: Any) -> dict[str, Any]:
    sizes: dict[str, Any] = {}
    for name, value in kind().to_dict().items():
        if isinstance(value, dict | list | bool):
            continue
        for pattern, small in _NAMES.items():
            if pattern.fullmatch(name):
                if value is not None or small == 1:
                    sizes[name] = small
                break
    return sizes


def shrunk(family: str, seed: int, **more: Any) -> Any:
    """A model of ``family`` with random weights, wide enough apart to be decisive."""
    torch.manual_seed(seed)
    config = config_of(family, **more)
    try:
        model = AutoModelForCausalLM.from_config(config)
    except ValueError:
        model = AutoModelForImageTextToText.from_config(config)
    spread(model)
    return model.eval()


def spread(model: nn.Module) -> None:
    """Gives matrices of nearly equal weights a spread, and the end of the text a low chance."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1 and weight.is_floating_point() and not weight.std() > 0.1:
                weight.normal_(0, 0.3)
        head = model.get_output_embeddings()  # type: ignore[operator]
        if head is not None:
            head.weight[1] *= 0.1
