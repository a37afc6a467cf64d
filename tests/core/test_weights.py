"""Weights of mixtures of experts and of quantized models, against counts by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from steer_decode import AlwaysSmall, Pair, Router
from steer_decode.core.cost import Pass, Usage
from steer_decode.core.experts import Experts, find_stacks
from steer_decode.core.shape import ModelShape
from steer_decode.core.weights import read_weights
from steer_decode.engines.hf.cache_support import cache_argument
from support.mixtures import (
    ATTENTION,
    FAMILIES,
    LAYERS,
    NARROW,
    ROWS,
    WIDE,
    E,
    H,
    K,
    gated,
    mixture,
)
from support.tiny import make_tokenizer, prompt_text
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_passes_router_chosen_and_shared_experts_and_dense_layers(family: str) -> None:
    model = mixture(family)
    shape = ModelShape.of(model)
    assert shape.body == FAMILIES[family][1]
    assert shape.head == H * ROWS
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())
    # Beside the matrices a token passes norms, biases and the embedding, as in any model.
    layers = LAYERS - bool({"first_k_dense_replace", "mlp_only_layers"} & set(FAMILIES[family][0]))
    width = NARROW if "moe_intermediate_size" in FAMILIES[family][0] else WIDE
    biases = layers * (2 * width + H) if family == "gpt_oss" else 0
    idle = (E - K) * (layers * gated(width) + biases)
    assert shape.active == shape.parameters - idle


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "llama4_text"])
def test_flops_of_mixtures_equal_those_counted(family: str) -> None:
    """One token alone: attention is over itself, in heads of as many numbers as the config says."""
    model = mixture(family)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.tensor([[3]]), use_cache=False)
    # In older transformers rotary angles are a product too; no paper counts them.
    parts = counter.get_flop_counts()
    angles = sum(sum(n.values()) for name, n in parts.items() if name.endswith(".rotary_emb"))
    assert ModelShape.of(model).flops(1, 0) == counter.get_total_flops() - angles


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_bytes_are_those_that_the_model_caches(family: str) -> None:
    """Latent attention caches latents in transformers 5, expanded keys and values in 4."""
    assert ModelShape.of(mixture(family)).cache_bytes(5) == cached_bytes(mixture(family), 5)


def test_layers_of_different_width() -> None:
    """Gemma 4: wider heads in full attention, and layers that take the keys of others."""
    pytest.importorskip("transformers.models.gemma4")
    sizes: dict[str, Any] = {"hidden_size": H, "intermediate_size": WIDE, "num_hidden_layers": 4}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 40}
    sizes |= {"global_head_dim": 16, "num_kv_shared_layers": 2, "sliding_window": 8}
    sizes |= {"layer_types": ["sliding_attention", "full_attention"] * 2, "pad_token_id": 0}
    sizes |= {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 40}
    config = AutoConfig.for_model("gemma4_text", **sizes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    shape = ModelShape.of(model)
    assert shape.cache_bytes(5) == cached_bytes(model, 5) == 4 * 5 * 2 * (2 * 8 + 2 * 16)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.tensor([[3]]), use_cache=False)
    assert shape.flops(1, 0) == counter.get_total_flops()


def cached_bytes(model: PreTrainedModel, tokens: int) -> int:
    """What the model's own cache holds of so many tokens."""
    cache = DynamicCache()
    with torch.no_grad():
        model(torch.full((1, tokens), 3), **{cache_argument(model): cache})
    layers = [layer for layer in cache.layers if layer.keys is not None]
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


def test_layers_of_experts_that_are_lists_of_modules() -> None:
    """As transformers 4 has them, and code that comes with a model."""

    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up_proj = nn.Linear(H, NARROW, bias=False)
            self.down_proj = nn.Linear(NARROW, H, bias=False)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top_k, self.num_experts = K, E
            self.gate = nn.Linear(H, E, bias=False)
            self.experts = nn.ModuleList(Mlp() for _ in range(E))
            self.shared_experts = Mlp()

    decoder = nn.Module()
    decoder.layers = nn.ModuleList(Block() for _ in range(E))  # as many as experts
    stacks = find_stacks(decoder, SimpleNamespace(num_experts_per_tok=K, num_experts=E))
    assert [(s.number, s.chosen) for s in stacks] == [(E, K)] * E
    assert {id(s.module) for s in stacks} == {id(b.experts) for b in decoder.layers}
    model: Any = nn.Module()
    model.model, model.lm_head = decoder, nn.Linear(H, ROWS, bias=False)
    model.get_decoder, model.get_output_embeddings = lambda: decoder, lambda: model.lm_head
    model.config = SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace())
    weights = read_weights(model)
    assert weights.body == E * (E * H + 2 * H * NARROW)
    assert weights.experts == (Experts(E, K, 2 * H * NARROW, 4 * 2 * H * NARROW, layers=E),)
    assert weights.parameters - weights.active == E * (E - K) * 2 * H * NARROW


def test_the_top_k_of_sampling_is_no_number_of_experts() -> None:
    block = nn.Module()
    block.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(4))
    assert find_stacks(block, SimpleNamespace(top_k=50, num_experts=4)) == []


def test_experts_that_tokens_choose_are_counted_once_a_pass() -> None:
    experts = Experts(E, K, 100, 400.0, layers=3)
    assert experts.distinct(1) == pytest.approx(K)
    # Two tokens choose the same two of eight with some luck: 2 + 2 * (1 - 2/8) on average.
    assert experts.distinct(2) == pytest.approx(2 + 2 * 6 / 8)
    assert experts.distinct(10_000) == pytest.approx(E)
    draws = torch.rand(4000, 5, E, generator=torch.Generator().manual_seed(0)).topk(K).indices
    hit = torch.zeros(4000, E).scatter_(1, draws.flatten(1), 1.0).sum(1).mean()
    assert experts.distinct(5) == pytest.approx(float(hit), rel=0.01)


def test_bytes_of_a_pass_depend_on_its_tokens() -> None:
    shape = ModelShape.of(mixture("mixtral"))
    dense = 4 * (LAYERS * (ATTENTION + E * H) + H * ROWS)
    one = 4 * gated(WIDE)
    assert shape.dense_bytes == dense
    assert shape.bytes_read(0) == pytest.approx(dense + LAYERS * K * one)
    at_4 = E * (1 - 0.75**4)
    assert shape.bytes_read(0, tokens=4) == pytest.approx(dense + LAYERS * at_4 * one)
    # Rows share what the pass reads, and each has tokens of its own.
    assert shape.bytes_read(0, rows=4) == pytest.approx(shape.bytes_read(0, tokens=4) / 4)
    assert Usage.of(shape, [Pass(4, 0)]).bytes_read == pytest.approx(shape.bytes_read(0, tokens=4))
    beside = Usage.of(shape, [Pass(1, 0, 2, tokens=4)])  # a hand-over of three in the other row
    assert beside.bytes_read == pytest.approx(shape.bytes_read(0, tokens=4) / 2)
    turns = Usage.of(shape, [Pass(1, i) for i in range(5)]).bytes_read
    assert turns == pytest.approx(sum(shape.bytes_read(i) for i in range(5)))


def test_an_answer_of_a_mixture_costs_what_its_tokens_pass() -> None:
    model = mixture("qwen3_moe")
    pair = Pair(model, mixture("mixtral"), make_tokenizer())
    cost = Router(pair, AlwaysSmall()).generate(prompt_text(0), max_new_tokens=8).cost
    shape = ModelShape.of(model)
    assert shape.active < shape.parameters
    assert cost.flops_paper == 2 * shape.active * cost.small.written
