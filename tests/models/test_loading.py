"""What is wrong with a folder is one sentence that names it and the reason."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import Pair, SteerError
from support.tiny import make_model, make_tokenizer, save_pair


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_pair(tmp_path_factory.mktemp("pair"))


def configured(**settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))

    return change


def written(name: str, text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(text)


def shards(folder: Path, change: Callable[[Path], object]) -> None:
    shutil.rmtree(folder)
    make_model("llama", 0).save_pretrained(folder, max_shard_size="10KB")
    make_tokenizer().save_pretrained(folder)
    change(folder)


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def old_tokenizer(folder: Path) -> None:
    no_tokenizer(folder)
    (folder / "tokenizer.model").write_bytes(b"x")


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half a file": (
        lambda f: os.truncate(f / "model.safetensors", 3000),
        "model.safetensors is broken or cut short",
    ),
    "an empty file": (
        lambda f: os.truncate(f / "model.safetensors", 0),
        "model.safetensors is broken or cut short",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        r"no file named .*model.safetensors",
    ),
    "other sizes": (
        configured(vocab_size=77),
        r"do not fit its config.json, which wants lm_head.weight to be \[77, 32\]",
    ),
    "more layers": (
        configured(num_hidden_layers=5),
        r"27 weights that its config.json asks for are in no file, .* model.layers.2",
    ),
    "a missing shard": (
        lambda f: shards(f, lambda g: sorted(g.glob("model-*"))[1].unlink()),
        "model-00002-of",
    ),
    "a broken index": (
        lambda f: shards(f, written("model.safetensors.index.json", "{")),
        "model.safetensors.index.json is broken or cut short",
    ),
    "an empty index": (
        lambda f: shards(f, written("model.safetensors.index.json", "{}")),
        "weight_map",
    ),
    "no JSON": (written("config.json", "{no"), "config.json is broken or cut short"),
    "a list": (written("config.json", "[1]"), "config.json is broken"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "model_type"),
    "an unknown type": (configured(model_type="nonesuch"), "model type `nonesuch`"),
    "impossible sizes": (configured(num_attention_heads=0), "(Zero|zero)"),
    "an unknown quantisation": (
        configured(quantization_config={"quant_method": "nonesuch"}),
        "quantised by 'nonesuch', which transformers does not read",
    ),
    "no tokenizer": (no_tokenizer, "there is no tokenizer in it"),
    "a broken tokenizer": (
        written("tokenizer.json", "{"),
        "tokenizer.json is broken or cut short",
    ),
    "an eos that is no id": (
        written("generation_config.json", '{"eos_token_id": "end"}'),
        "eos_token_id of the small model's generation config must be .* got 'end'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_one_sentence(
    fault: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    change, message = FAULTS[fault]
    folder = tmp_path / "broken"
    shutil.copytree(folders[0], folder)
    change(folder)
    with pytest.raises(SteerError, match=message) as caught:
        Pair.from_pretrained(folder, folders[1], device="cpu")
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 700
    assert "eos" in fault or f"cannot load the small model {str(folder)!r}: " in said


def test_a_package_that_is_missing_is_named(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steer_decode.models.loading._installed", lambda package: False)
    for name, change, package in (
        ("old", old_tokenizer, "sentencepiece"),
        ("adapter", lambda f: (f / "config.json").rename(f / "adapter_config.json"), "peft"),
    ):
        folder = tmp_path / name
        shutil.copytree(folders[0], folder)
        change(folder)
        with pytest.raises(SteerError, match=rf"needs the package {package}"):
            Pair.from_pretrained(folder, folders[1])


def test_a_format_that_needs_a_package_or_a_device_says_which(folders: tuple[Path, Path]) -> None:
    for error in (RuntimeError("No GPU or XPU found.\nMore"), ImportError("pip install x")):

        def fails(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fails)
            reason = str(error).split("\n")[0].rstrip(".")
            with pytest.raises(SteerError, match=rf"cannot load the small model .*{reason}"):
                Pair.from_pretrained(*folders)


def test_a_file_is_no_folder(folders: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    with pytest.raises(SteerError, match=r"it is a file; .* and gguf_file='model.gguf'"):
        Pair.from_pretrained(file, folders[1])


def test_memory_that_runs_out_is_said(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full)
    with pytest.raises(SteerError, match=r"the small model .* does not fit in memory"):
        Pair.from_pretrained(*folders)


@pytest.mark.parametrize("names", [{"dtype"}, {"torch_dtype"}, {"dtype", "torch_dtype"}])
@pytest.mark.parametrize("value", [torch.bfloat16, "bfloat16"])
@pytest.mark.few(2)
def test_a_dtype_by_either_name(names: set[str], value: object, folders: tuple[Path, Path]) -> None:
    pair = Pair.from_pretrained(*folders, device="cpu", **dict.fromkeys(names, value))  # type: ignore[arg-type]
    assert pair.small.dtype == pair.large.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": torch.bfloat16, "torch_dtype": "float32"}, "two names of one argument"),
        ({"dtype": "bf16"}, "dtype must be a floating dtype .* got 'bf16'"),
        ({"torch_dtype": torch.int8}, "torch_dtype must be a floating dtype .* got torch.int8"),
        ({"colour": 1}, "takes no argument 'colour': leave it out"),
        ({"output_loading_info": True}, "output_loading_info= cannot be given"),
    ],
)
def test_keywords_that_cannot_be_honoured_are_refused(
    options: dict[str, Any], message: str, folders: tuple[Path, Path]
) -> None:
    with pytest.raises(SteerError, match=message):
        Pair.from_pretrained(*folders, device="cpu", **options)


def test_keywords_go_to_those_who_take_them(folders: tuple[Path, Path]) -> None:
    pair = Pair.from_pretrained(
        *folders,
        device="cpu",
        use_fast=True,
        padding_side="left",
        attn_implementation="eager",
        chat_template="{{ messages[0].content }}",
    )
    assert pair.tokenizer.padding_side == "left"
    assert "attn_implementation" not in pair.tokenizer.init_kwargs
    assert pair.large.config._attn_implementation == "eager"
    assert pair.render([{"role": "user", "content": "w1"}]) == "w1"


def test_each_model_has_a_device_of_its_own(folders: tuple[Path, Path]) -> None:
    pair = Pair.from_pretrained(*folders, device=("cpu", torch.device("cpu")))
    assert pair.small.device.type == pair.large.device.type == "cpu"
    assert pair.small.dtype == pair.large.dtype == torch.float32


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (("cpu",), "two, the small model's first: got \\('cpu',\\)"),
        (("cpu", "cpu", "cpu"), "device must be one for both models, or two"),
        (("cpu", "nowhere"), "device 'nowhere' cannot be used"),
    ],
)
def test_devices_that_cannot_be(device: Any, message: str, folders: tuple[Path, Path]) -> None:
    with pytest.raises(SteerError, match=message):
        Pair.from_pretrained(*folders, device=device)
