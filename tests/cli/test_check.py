"""`steer check`: whether two models fit, from configs and tokenizers; few folders have weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import AlwaysLarge, OutOfMemoryError, Pair, Router
from steer_decode.cli import app
from steer_decode.demo import pair_paths
from steer_decode.engines.hf import memory as memory_module
from steer_decode.preflight.quantized import Quantization
from support.config_folders import SIZES, folder
from support.tiny import VOCABULARY, save_pair
from transformers import AutoConfig
from typer.testing import CliRunner

ATTENTION, MLP, TABLE, NORM = 2 * 32 * 32 + 2 * 32 * 16, 3 * 32 * 64, 40 * 32, 32
LLAMA = 2 * TABLE + 2 * (ATTENTION + MLP + 2 * NORM) + NORM


def steer(*args: object) -> Any:
    return CliRunner().invoke(app, ["check", *map(str, args)])


def facts(*args: object, status: int = 0) -> dict[str, Any]:
    result = steer(*args, "--device", "cpu", "--json")
    assert result.exit_code == status, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["fits"] == (status == 0)
    return found


class TestDemo:
    @pytest.mark.parametrize("columns", ["80", "100"])
    def test_a_verdict_stands_first(self, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", columns)
        result = steer("--pair", "demo", "--device", "cpu")
        assert result.exit_code == 0
        text = " ".join(result.stdout.split())
        assert text.startswith("They fit: one vocabulary of 253 tokens, and a token of the small")
        for part in ("246 k", "3.47 M", "demo small", "FLOPs as in papers", "0.0708", "90.2%"):
            assert part in text

    def test_sizes_are_those_of_the_loaded_pair(self) -> None:
        found = facts("--pair", "demo", "--context", 300, "--cohort", 3)
        pair = Pair.from_pretrained(*pair_paths(), device="cpu", dtype=torch.float32)
        for writer, shape in pair.shapes.items():
            model = found["models"][writer]
            assert model["parameters"] == model["active"] == shape.parameters
            assert model["weight_bytes"] == shape.held_bytes == 4 * shape.parameters
            assert found["memory"]["caches"][writer] == 3 * shape.cache_bytes(300)
        assert found["chat_templates"] == "same"
        assert found["longest"] == pair.max_length
        assert {*found["models"]["small"]["eos_ids"]} == pair.eos_ids

    def test_memory_is_what_an_answer_is_refused_for(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        paths = save_pair(tmp_path)
        caches = facts(*paths, "--context", 77, "--cohort", 2)["memory"]["caches"]
        router = Router(Pair.from_pretrained(*paths, device="cpu"), AlwaysLarge())
        prompts, room = ["w1w2 w3"] * 2, 77 - len(router.pair.encode("w1w2 w3"))
        total = sum(caches.values())
        monkeypatch.setattr(memory_module, "available_bytes", lambda device: total)
        router.stream_cohort(prompts, max_new_tokens=room)
        monkeypatch.setattr(memory_module, "available_bytes", lambda device: total - 1)
        with pytest.raises(OutOfMemoryError, match=f"need {total:,} bytes"):
            router.stream_cohort(prompts, max_new_tokens=room)


class TestFit:
    def test_two_families_of_one_vocabulary(self, tmp_path: Path) -> None:
        small = folder(tmp_path, "llama")
        large = folder(tmp_path, "qwen2", num_hidden_layers=4, eos_token_id=[1, 2])
        found = facts(small, large)
        assert found["models"]["small"]["parameters"] == LLAMA
        assert found["models"]["small"]["weight_bytes"] == 4 * LLAMA
        assert found["models"]["small"]["cache_bytes_a_token"] == 2 * 2 * 16 * 4
        biases = 4 * (32 + 2 * 16)
        qwen = 2 * TABLE + 4 * (ATTENTION + MLP + 2 * NORM) + NORM + biases
        assert found["models"]["large"]["parameters"] == qwen
        assert found["models"]["large"]["eos_ids"] == [1, 2]
        assert "the ids that end an answer differ: those of either end it" in found["notes"]
        halved = facts(small, large, "--dtype", "bfloat16")
        assert halved["memory"]["needed"] * 2 == found["memory"]["needed"]

    def test_tokens_that_differ_are_named(self, tmp_path: Path) -> None:
        words = list(VOCABULARY)
        words[20], words[21] = words[21], "\x1b]0;owned\x07"
        small, large = folder(tmp_path, "llama"), folder(tmp_path, "qwen2", [*words, "more"])
        found = facts(small, large, status=2)
        assert found["vocabulary"]["differences"] == 3
        first = found["vocabulary"]["first"]
        assert first[0] == {"id": 20, "small": VOCABULARY[20], "large": VOCABULARY[21]}
        assert first[2] == {"id": len(words), "small": None, "large": "more"}
        assert found["problems"] == [
            f"the tokenizers differ in 3 ids, the first is 20, {VOCABULARY[20]!r} for the small "
            f"model and {VOCABULARY[21]!r} for the large one"
        ]
        shown = steer(small, large)
        assert shown.exit_code == 2
        assert shown.stdout.startswith("They do not fit: the tokenizers differ in 3 ids")
        assert "\x1b" not in shown.stdout
        assert "\x07" not in shown.stdout

    @pytest.mark.parametrize(
        ("family", "sizes", "why"),
        [
            ("qwen3_next", {}, "keeps linear_attention, which cannot be rolled back"),
            ("mamba", {"state_size": 4}, "which cannot be rolled back"),
            ("openai-gpt", {"n_embd": 32, "n_layer": 1, "n_head": 4}, "keeps no KV cache"),
            ("llama", {"num_hidden_layers": 10**9}, "is to have 1,000,000,000 layers"),
            ("bert", {}, "reads a text in both directions"),
            ("bart", {"d_model": 32, "encoder_layers": 1}, "is an encoder and a decoder"),
            ("t5", {"d_model": 32}, "is an encoder and a decoder"),
            ("llama", {"hidden_act": "no"}, "cannot be made as a causal language model (KeyError"),
        ],
    )
    def test_what_cannot_be_served_is_refused(
        self, tmp_path: Path, family: str, sizes: dict[str, Any], why: str
    ) -> None:
        found = facts(folder(tmp_path, "llama"), folder(tmp_path, family, **sizes), status=2)
        assert len(found["models"]["small"]["problems"]) == 0
        assert why in found["verdict"]
        assert found["verdict"].startswith("They do not fit: the large model ")
        assert found["costs"] == []

    @pytest.mark.parametrize(
        ("small", "large", "said"),
        [
            ("", "", "none"),
            ("a{{ messages }}", "a{{ messages }}", "same"),
            ("a{{ messages }}", "b{{ messages }}", "differ"),
            ("a{{ messages }}", "", "small"),
            ("", "a{{ messages }}", "large"),
        ],
    )
    def test_chat_templates(self, tmp_path: Path, small: str, large: str, said: str) -> None:
        sides = folder(tmp_path, "llama", template=small), folder(tmp_path, "llama", template=large)
        found = facts(*sides)
        assert found["chat_templates"] == said
        assert any("chat template" in note for note in found["notes"]) == (
            said[0] in "dsl" and said != "same"
        )

    def test_a_scaled_context_counts_scaled(self, tmp_path: Path) -> None:
        scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
        scaled = folder(tmp_path, "llama", rope_scaling={**scaling, "rope_theta": 10000.0})
        found = facts(scaled, folder(tmp_path, "llama", max_position_embeddings=1024))
        assert found["models"]["small"]["context"] == 2048
        assert found["longest"] == found["context"] == 1024
        notes = facts(scaled, scaled, "--context", 3000)["notes"]
        assert "the context of the pair holds 2048 tokens, 3000 are asked for" in notes


class TestWeights:
    def test_of_a_mixture_what_a_token_passes(self, tmp_path: Path) -> None:
        experts = {"num_local_experts": 8, "num_experts_per_tok": 2}
        sides = folder(tmp_path, "llama"), folder(tmp_path, "mixtral", **experts)
        found = facts(*sides)
        large = found["models"]["large"]
        assert large["parameters"] == LLAMA + 2 * (7 * MLP + 8 * 32)
        assert large["active"] == LLAMA + 2 * (MLP + 8 * 32)
        papers, _, of_bytes = found["costs"]
        assert papers["large"] == 2 * large["active"]
        assert of_bytes["draft"] > 1
        together = facts(*sides, "--cohort", 100)["costs"][2]
        # All experts are read for a hundred rows, and each row has its part of them.
        assert together["large"] * 100 > 4 * 2 * 8 * MLP

    @pytest.mark.parametrize(
        ("quantization", "bits"),
        [
            ({"quant_method": "gptq", "bits": 4, "group_size": 32}, 4 + (16 + 4) / 32),
            ({"quant_method": "awq", "bits": 4, "group_size": 64}, 4 + (16 + 4) / 64),
            ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
            ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4 + 32 / 64),
            (
                {
                    "load_in_4bit": True,
                    "bnb_4bit_use_double_quant": True,
                    "quant_method": "bitsandbytes",
                },
                4 + 8 / 64 + 32 / (64 * 256),
            ),
            ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8),
            ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, 4),
            (
                {
                    "quant_method": "compressed-tensors",
                    "config_groups": {
                        "group_0": {
                            "weights": {"num_bits": 4, "group_size": 128, "symmetric": True}
                        }
                    },
                },
                4 + 16 / 128,
            ),
        ],
        ids=lambda value: value.get("quant_method") if isinstance(value, dict) else "",
    )
    def test_of_a_quantized_config_by_its_bits(
        self, tmp_path: Path, quantization: dict[str, Any], bits: float
    ) -> None:
        plain = folder(tmp_path, "llama")
        packed = folder(tmp_path, "llama", quantization_config=quantization)
        found = facts(plain, packed, "--dtype", "bfloat16")["models"]
        assert found["large"]["parameters"] == found["small"]["parameters"] == LLAMA
        body = 2 * (ATTENTION + MLP)
        expected = 2 * (LLAMA - body) + bits / 8 * body
        assert found["large"]["weight_bytes"] == pytest.approx(expected, abs=14)
        assert found["large"]["cache_bytes_a_token"] == found["small"]["cache_bytes_a_token"]

    def test_layers_that_are_left_as_they_are(self) -> None:
        left = Quantization("x", 4.0, ("lm_head", "mlp.gate", "re:.*self_attn.*", "re:.*up_proj$"))
        for name in ("lm_head", "model.layers.0.mlp.gate", "model.layers.1.self_attn.q_proj"):
            assert left.leaves(name)
        assert left.leaves("model.layers.1.mlp.up_proj")
        for name in ("model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj.x"):
            assert not left.leaves(name)
        # Text that would take for ever as an expression.
        assert not Quantization("x", 4.0, ("re:(a+)+$",)).leaves("a" * 60 + "b")

    def test_an_unknown_packing_is_said(self, tmp_path: Path) -> None:
        packed = folder(tmp_path, "llama", quantization_config={"quant_method": "spqr"})
        assert any("quantized by spqr" in note for note in facts(packed, packed)["notes"])


class TestProbe:
    def test_the_weights_are_loaded_and_tried(self, tmp_path: Path) -> None:
        found = facts(*save_pair(tmp_path), "--probe")
        for tried in found["probes"].values():
            assert tried["problems"] == []
            assert tried["cohort"]
            assert tried["roll_back"]
            assert tried["seconds"] > 0

    def test_what_the_models_do_decides(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from steer_decode.engines.hf.probe import Probe
        from steer_decode.engines.hf.serving import Serving
        from steer_decode.preflight import fit

        bad = Probe(("gives other logits",), Serving(), 0.1)
        monkeypatch.setattr(fit, "probe", lambda model: bad)
        found = facts(*save_pair(tmp_path), "--probe", status=2)
        assert found["problems"] == [
            f"the {w} model gives other logits" for w in ("small", "large")
        ]


def refused(*args: object) -> str:
    result = steer(*args)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return str(line)


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    good = folder(tmp_path, "llama")
    assert "name two models" in refused()
    assert "name the large model" in refused(good)
    assert "not both" in refused(good, good, "--pair", "demo")
    assert "unknown pair 'other'" in refused("--pair", "other")
    assert "no model folder './nowhere'" in refused(good, "./nowhere")
    assert "--context must be at least 1 and at most 2,147,483,648, got 0" in refused(
        good, good, "--context", 0
    )
    assert "--cohort must be at least 1 and at most" in refused(good, good, "--cohort", -1)
    assert "--cohort must be at least 1 and at most" in refused(good, good, "--cohort", 10**400)
    assert "device 'nothing'" in refused(good, good, "--device", "nothing")
    (tmp_path / "bare").mkdir()
    assert "cannot load the large model" in refused(good, tmp_path / "bare")
    AutoConfig.for_model("llama", **SIZES).save_pretrained(tmp_path / "mute")
    assert "there is no tokenizer in it" in refused(good, tmp_path / "mute")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.json").write_text('{"model_type"')
    assert "config.json is broken or cut short" in refused(good, tmp_path / "cut")


def test_help_has_examples() -> None:
    text = steer("--help").stdout
    assert "steer check Qwen/Qwen3-1.7B Qwen/Qwen3-14B" in text


def test_names_from_folders_are_shown_not_obeyed(tmp_path: Path) -> None:
    place = Path(folder(tmp_path, "llama"))
    hostile = place.rename(place.parent / "a\x1b]0;owned\x07\u202eb")
    for options in ((), ("--json",)):
        found = steer(hostile, hostile, *options)
        assert found.exit_code == 0
        assert not {"\x1b", "\x07", "\u202e"} & set(found.stdout)
    facts = json.loads(steer(hostile, hostile, "--json").stdout)
    assert facts["models"]["small"]["source"] == str(hostile)
