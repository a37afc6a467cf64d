"""Tiny models and a tokenizer, made on the spot: random weights, real architectures."""

from __future__ import annotations

from pathlib import Path

import torch
from steer_decode import Pair
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

# A pass over models this small is too short for a second thread to help.
torch.set_num_threads(1)

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3_text", "phi3", "mistral", "gpt_neox", "olmo2")

# The delimiter whole, inside a merged token, and in halves that must be put together.
_ENDS = ["\n\n", ".\n\n", ",\n\n", "!\n\n", "?\n\n", ":\n\n", ";\n\n"]
_WORDS = [*_ENDS, "\n", " ", ",", "."] + [f"w{i}" for i in range(21)]
VOCABULARY = ["<unk>", "<eos>", *_WORDS]


def make_tokenizer(words: list[str] | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer of 34 whole words whose text is the plain concatenation of its tokens."""
    vocabulary = {word: i for i, word in enumerate(words or VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[.,!?:;]?\n\n|w\d+|\s|[.,]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>"
    )


def make_model(
    family: str,
    seed: int,
    *,
    layers: int = 2,
    width: int = 32,
    positions: int = 512,
    rows: int = 40,
) -> PreTrainedModel:
    """A causal model of ``family`` with random float32 weights, wide enough apart to be decisive.

    ``rows`` is the size of the head; those beyond the 34 words are padding that must never win.
    Gemma 3 and OLMo 3 have a sliding window in their first layer, Mistral in all of its layers; of
    8 tokens, shorter than the texts of the tests.
    """
    torch.manual_seed(seed)
    sizes: dict[str, object] = {
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": width // 4,
        "max_position_embeddings": positions,
        "initializer_range": 0.4,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    if family in ("gemma3_text", "olmo3"):
        kinds = ["sliding_attention"] + ["full_attention"] * (layers - 1)
        sizes |= {"sliding_window": 8, "layer_types": kinds}
    if family == "gemma3_text":
        sizes |= {"query_pre_attn_scalar": width // 4}
    if family == "mistral":
        sizes |= {"sliding_window": 8}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
    with torch.no_grad():  # the end of the text is to come, but seldom before a few steps
        model.get_output_embeddings().weight[1] *= 0.5
    return model.eval()


def make_pair(family: str, seed: int = 0, **sizes: int) -> Pair:
    """A pair with a head of another size in each model, as Qwen has."""
    small = make_model(family, seed, **sizes)
    large = make_model(family, seed + 1, layers=3, rows=48, **sizes)
    return Pair(small, large, make_tokenizer())


class Pairs(dict[str, Pair]):
    """A pair of each family, made when it is first asked for: a file is imported by every worker.

    For tests that leave the models as they are.
    """

    def __missing__(self, family: str) -> Pair:
        with torch.random.fork_rng(devices=[]):
            self[family] = make_pair(family, 0)
        return self[family]


def save_pair(folder: Path, family: str = "llama", seed: int = 0) -> tuple[Path, Path]:
    """Writes a pair that ``from_pretrained`` can load; returns both folders."""
    pair = make_pair(family, seed)
    paths = folder / "small", folder / "large"
    for path, model in zip(paths, (pair.small, pair.large), strict=True):
        model.save_pretrained(path)
        pair.tokenizer.save_pretrained(path)
    return paths


def prompt_ids(seed: int, length: int = 12) -> list[int]:
    """Random words, no end of text among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, len(VOCABULARY), (length,), generator=generator).tolist()


def prompt_text(seed: int, length: int = 12) -> str:
    """The text of :func:`prompt_ids`, which the tokenizer need not split in the same way."""
    return "w0" + "".join(VOCABULARY[i] for i in prompt_ids(seed, length))


def make_close_pair(family: str, seed: int, noise: float = 0.1) -> Pair:
    """Two models that often agree: the large one is the small one with noise on its weights."""
    small, large = make_model(family, seed), make_model(family, seed)
    torch.manual_seed(seed + 1)
    with torch.no_grad():
        for weight in large.parameters():
            if weight.dim() > 1:
                weight.add_(torch.randn_like(weight), alpha=noise * float(weight.std()))
    return Pair(small, large, make_tokenizer())
