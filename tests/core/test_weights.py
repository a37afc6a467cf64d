"""Weights of mixtures of experts and of quantized models, against counts by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from steer_decode import AlwaysSmall, Pair, Router
from steer_decode.core.cost import Pass, Usage
from steer_decode.core.experts import Experts, find_stacks
from steer_decode.core.shape import ModelShape
from steer_decode.core.weights import count_parameters, held_bytes, read_weights
from steer_decode.engines.hf.cache_support import cache_argument
from support.tiny import make_model, make_tokenizer, prompt_text
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel

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


class Packed(nn.Module):
    """A linear layer that keeps its weights in some other form."""

    def __init__(self, linear: nn.Linear, **tensors: torch.Tensor) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.bias = linear.bias


def gptq(linear: nn.Linear) -> nn.Module:
    """Four bits in int32 words down the columns; scales and zeros of groups of 8, group indices."""
    i, o = linear.in_features, linear.out_features
    words = torch.zeros(i // 8, o, dtype=torch.int32)
    scales, zeros = torch.zeros(i // 8, o, dtype=torch.float16), words[:, ::8].clone()
    index = torch.zeros(i, dtype=torch.int32)
    return Packed(linear, qweight=words, scales=scales, qzeros=zeros, g_idx=index)


def awq(linear: nn.Linear) -> nn.Module:
    """Four bits in int32 words along the rows; groups of 16."""
    i, o = linear.in_features, linear.out_features
    words = torch.zeros(i, o // 8, dtype=torch.int32)
    scales = torch.zeros(i // 16, o, dtype=torch.float16)
    return Packed(linear, qweight=words, scales=scales, qzeros=words[::16].clone())


def compressed(linear: nn.Linear) -> nn.Module:
    """compressed-tensors: a linear layer whose weight is replaced by words, scale and shape."""
    i, o = linear.in_features, linear.out_features
    packed = nn.Linear(i, o, bias=False)
    del packed.weight
    packed.weight_packed = nn.Parameter(torch.zeros(o, i // 8, dtype=torch.int32), False)
    packed.weight_scale = nn.Parameter(torch.zeros(o, i // 8, dtype=torch.bfloat16), False)
    packed.weight_shape = nn.Parameter(torch.tensor([o, i]), False)
    return packed


def fp8(linear: nn.Linear) -> nn.Module:
    """Eight-bit floats with a scale for each block of 16 by 16."""
    i, o = linear.in_features, linear.out_features
    packed = nn.Linear(i, o, bias=False)
    packed.weight = nn.Parameter(torch.zeros(o, i).to(torch.float8_e4m3fn), False)
    packed.weight_scale_inv = nn.Parameter(torch.zeros(-(-o // 16), -(-i // 16)), False)
    return packed


# Bytes of a matrix of i by o, by hand.
LAYOUTS: dict[Callable[[nn.Linear], nn.Module], Callable[[int, int], int]] = {
    gptq: lambda i, o: i * o // 2 + i // 8 * o * 2 + i // 8 * (o // 8) * 4 + i * 4,
    awq: lambda i, o: i * o // 2 + i // 16 * o * 2 + i // 16 * (o // 8) * 4,
    compressed: lambda i, o: i * o // 2 + o * (i // 8) * 2 + 2 * 8,
    fp8: lambda i, o: i * o + -(-o // 16) * -(-i // 16) * 4,
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_packed_weights_count_as_many_as_they_are_and_as_bytes_that_are_held(layout: Any) -> None:
    model = make_model("qwen2", 0)  # its queries, keys and values have biases
    plain, shapes = ModelShape.of(model), []
    for parent in list(model.model.layers.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                shapes.append((child.in_features, child.out_features))
                biases = child.bias is not None and layout in (compressed, fp8)
                packed = layout(child)
                packed.bias = child.bias if biases else packed.bias
                setattr(parent, name, packed)
    shape = ModelShape.of(model)
    for name in ("parameters", "active", "body", "head", "activations", "weight_bytes"):
        assert getattr(shape, name) == getattr(plain, name)
    matrices = sum(LAYOUTS[layout](i, o) for i, o in shapes)
    assert shape.dense_bytes == matrices + 4 * shape.head
    assert shape.held_bytes == matrices + 4 * (shape.parameters - shape.body)


def test_dynamically_quantized_layers_hold_a_byte_a_weight() -> None:
    model = make_model("llama", 0)
    plain = ModelShape.of(model)
    with warnings.catch_warnings():  # torch is giving it up
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    shape = ModelShape.of(quantized)
    assert (shape.parameters, shape.body, shape.head) == (plain.parameters, plain.body, plain.head)
    assert shape.dense_bytes == shape.body + shape.head
    assert shape.held_bytes == shape.dense_bytes + 4 * (shape.parameters - shape.body - shape.head)
    assert shape.cache_bytes(1) == plain.cache_bytes(1)


def test_torchao_holds_a_byte_a_weight_and_scales() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model = make_model("llama", 0)
    plain = ModelShape.of(model)
    quantization.quantize_(model.model, quantization.Int8WeightOnlyConfig())
    shape = ModelShape.of(model)
    assert (shape.parameters, shape.body) == (plain.parameters, plain.body)
    rows = sum(m.out_features for m in model.model.modules() if isinstance(m, nn.Linear))
    assert shape.body <= shape.dense_bytes - 4 * shape.head <= shape.body + 8 * rows + 4


def test_bitsandbytes_holds_half_a_byte_a_weight_and_scales() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    linear = nn.Linear(64, 128, bias=True)
    four = bitsandbytes.nn.Linear4bit(64, 128, quant_type="nf4", compress_statistics=False)
    four.load_state_dict(linear.state_dict())
    four = four.to("cpu")
    assert count_parameters(four) == 64 * 128 + 128
    # A float32 scale for each 64 weights, and a table of 16 float32.
    assert held_bytes(four) == 64 * 128 // 2 + 4 * 128 + 64 + 4 * 128


def test_packed_experts_are_counted_in_weights() -> None:
    """MXFP4 as gpt-oss has it: two weights in a byte, a scale of a byte for each 32."""
    model = mixture("gpt_oss")
    plain = read_weights(model)
    for layer in model.model.layers:
        experts = layer.mlp.experts
        for name, inputs, outputs in (("gate_up_proj", H, 2 * WIDE), ("down_proj", WIDE, H)):
            delattr(experts, name)
            packed = torch.zeros(E, outputs, inputs // 2, dtype=torch.uint8)
            scales = torch.zeros(E, outputs, inputs // 32, dtype=torch.uint8)
            setattr(experts, f"{name}_blocks", nn.Parameter(packed, False))
            setattr(experts, f"{name}_scales", nn.Parameter(scales, False))
    weights = read_weights(model)
    assert (weights.parameters, weights.active) == (plain.parameters, plain.active)
    (experts,) = weights.experts
    assert experts.weights == gated(WIDE)
    assert experts.nbytes == gated(WIDE) / 2 + gated(WIDE) / 32
