"""Image-text classes, wrapped models, Gemma 4, int8 and device maps, at both doors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import AlwaysSmall, Pair, Router, SteerError
from steer_decode.engines.hf.placing import placed
from steer_decode.engines.hf.wrapped import unwrapped
from support import families
from support.families import SIZES, greedy, made, pair_of
from support.tiny import make_model, make_tokenizer, prompt_ids, save_pair
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

IDS = prompt_ids(3, 20)
TOKENS = 10


def both_doors(pair: Pair) -> tuple[list[int], list[int]]:
    """What the small model writes after ``IDS`` through either door."""
    pair.__dict__["encode"] = lambda prompt, *more: IDS
    router = Router(pair, AlwaysSmall())
    front = router.generate("as given", max_new_tokens=TOKENS).token_ids
    return front, greedy(pair.small, IDS, TOKENS, custom_generate=router)


TEXT = {k: v for k, v in SIZES.items() if k != "tie_word_embeddings"}
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
VISION = {"hidden_size": 32, "depth": 1, "num_heads": 4, "intermediate_size": 64}


def image_text(family: str, seed: int) -> Any:
    """A model for images and text, of one layer for images."""
    vision: dict[str, Any]
    if family == "gemma3":
        text = {"sliding_window": 8, "query_pre_attn_scalar": 8, "model_type": "gemma3_text"}
        vision = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4}
        vision |= {"intermediate_size": 64, "image_size": 28, "patch_size": 14}
        more = {"mm_tokens_per_image": 4, "image_token_index": 33}
    else:
        text = {families.rope_name(): MROPE}
        vision, more = VISION | {"out_hidden_size": 32}, {}
    return made(
        AutoModelForImageTextToText,
        family,
        seed,
        text_config=TEXT | text,
        vision_config=vision,
        **more,
    )


@pytest.mark.parametrize("family", ["gemma3", "qwen2_5_vl"])
def test_texts_alone_go_through_image_text_models(family: str) -> None:
    pair = pair_of(image_text(family, 0), image_text(family, 1))
    expected = greedy(pair.small, IDS, TOKENS)
    assert both_doors(pair) == (expected, expected)
    router, zeros = Router(pair, AlwaysSmall()), torch.zeros(1, len(IDS), dtype=torch.int64)
    more = {"custom_generate": router, "token_type_ids": zeros}
    assert greedy(pair.small, IDS, TOKENS, **more) == expected
    image = torch.zeros(1, 3, 28, 28)
    if family == "qwen2_5_vl":  # transformers itself asks for the grid of an image
        return
    with pytest.raises(SteerError, match=r"^(pixel_values|image input) is not supported in rout"):
        greedy(pair.small, IDS, TOKENS, custom_generate=router, pixel_values=image)


def test_image_text_models_are_loaded_by_their_own_class(tmp_path: Path) -> None:
    paths = [tmp_path / "small", tmp_path / "large"]
    for seed, path in enumerate(paths):
        image_text("qwen2_5_vl", seed).save_pretrained(path)
        make_tokenizer().save_pretrained(path)
    pair = Pair.from_pretrained(*paths)
    assert type(pair.small).__name__ == "Qwen2_5_VLForConditionalGeneration"
    expected = greedy(pair.small, IDS, TOKENS)
    assert both_doors(pair) == (expected, expected)


def test_gemma_4_has_heads_of_two_sizes() -> None:
    kinds = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8}
    sizes = {"global_head_dim": 16, "num_hidden_layers": 4, "num_kv_shared_layers": 2}
    sizes |= {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": SIZES["vocab_size"]}
    try:
        small, large = (
            made(AutoModelForCausalLM, "gemma4_text", seed, **kinds, **sizes) for seed in (0, 1)
        )
    except ValueError:
        pytest.skip("this version of transformers has no Gemma 4")
    pair = pair_of(small, large)
    expected = greedy(small, IDS, TOKENS)
    assert both_doors(pair) == (expected, expected)
    widths = [(4 * 8, 2 * 8), (4 * 16, 2 * 16), (4 * 8, 0), (4 * 16, 0)]
    assert list(pair.shapes["small"].widths) == widths


class Adapter(nn.Module):
    """Hands out what it does not have itself, as the wrappers of PEFT do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = model

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base_model, name)

    def get_base_model(self) -> nn.Module:
        model: nn.Module = self.base_model
        return model

    def forward(self, input_ids: torch.Tensor | None = None, **options: Any) -> Any:
        return self.base_model(input_ids=input_ids, **options)

    def generate(self, *args: Any, **options: Any) -> Any:
        return self.base_model.generate(*args, **options)


def peft_model(model: Any) -> Any:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    return peft.get_peft_model(model, config)


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(Adapter, id="adapter"),
        pytest.param(
            lambda model: torch.compile(model, backend="eager"),
            id="torch.compile",
            marks=pytest.mark.slow,
        ),
        pytest.param(peft_model, id="peft"),
    ],
)
def test_wrapped_models_are_served_at_both_doors(wrap: Any) -> None:
    small, large = wrap(families.causal("llama", 0)), families.causal("llama", 1)
    expected = greedy(small, IDS, TOKENS)
    pair = pair_of(small, large)
    assert both_doors(pair) == (expected, expected)
    # The one inside is the same model, and another one is another.
    inside = greedy(unwrapped(small), IDS, TOKENS, custom_generate=Router(pair, AlwaysSmall()))
    assert inside == expected
    other = wrap(families.causal("llama", 2))
    with pytest.raises(SteerError, match="by a model that is not in it"):
        greedy(other, IDS, TOKENS, custom_generate=Router(pair, AlwaysSmall()))


def test_int8_of_torch_is_served() -> None:
    models = [
        torch.ao.quantization.quantize_dynamic(make_model("llama", seed, rows=34), {nn.Linear})
        for seed in (0, 1)
    ]
    pair = pair_of(*models)
    expected = greedy(pair.small, IDS, TOKENS)
    assert both_doors(pair) == (expected, expected)


def test_what_has_its_place_is_not_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    monkeypatch.setattr("transformers.PreTrainedModel.to", lambda m, to: (moved.append(to), m)[1])
    model = make_model("llama", 0)
    assert placed(model, "cpu") is model
    assert moved == ["cpu"]
    model.hf_device_map = {"model.embed_tokens": 0, "model.layers": 1, "lm_head": 1}
    assert placed(model, "cuda") is model
    quantized = make_model("llama", 1)
    quantized.is_quantized = True
    assert placed(quantized, "cuda") is quantized
    assert moved == ["cpu"]
    small, large = save_pair(tmp_path)
    with pytest.raises(SteerError, match="device='cpu' and device_map='auto' both say where"):
        Pair.from_pretrained(small, large, device="cpu", device_map="auto")


def test_a_device_map_reaches_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    folders = save_pair(tmp_path)
    expected = Router(Pair.from_pretrained(*folders), AlwaysSmall())
    with pytest.raises(SteerError, match="cannot load the small model"):
        Pair.from_pretrained(*folders, device_map="nowhere")
    moved: list[Any] = []
    monkeypatch.setattr("transformers.PreTrainedModel.to", lambda m, to: (moved.append(to), m)[1])
    monkeypatch.setattr("steer_decode.models.pair.placement", lambda device, dtype: ("meta", dtype))
    pair = Pair.from_pretrained(*folders, device_map="cpu")
    assert "meta" not in map(str, moved)  # where it goes without a map
    monkeypatch.undo()
    output = Router(pair, AlwaysSmall()).generate("w0w1w2", max_new_tokens=TOKENS)
    assert output.token_ids == expected.generate("w0w1w2", max_new_tokens=TOKENS).token_ids
