"""The models that are measured.

The demo pair, and real shapes with random weights. How long a pass takes does not depend on what
the weights are, so no checkpoint is needed. With an end-of-text token both sides of a comparison
could stop early; these models have none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ...demo import pair_paths
from ...models.pair import Pair
from .plan import POSITIONS


@dataclass(frozen=True)
class Shape:
    family: str
    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int


SHAPES = {
    "smollm2-135m": Shape("llama", 49_152, 576, 1536, 30, 9, 3),
    "qwen2.5-0.5b": Shape("qwen2", 151_936, 896, 4864, 24, 14, 2),
}


def load(name: str, *, separate: bool = False) -> Pair:
    """A pair whose texts never end by themselves.

    Args:
        name: "demo", or one of :data:`SHAPES`.
        separate: two models with weights of their own; else a shape serves both sides.
    """
    if name != "demo":
        return random_pair(SHAPES[name], separate=separate)
    pair = demo_pair()
    pair.tokenizer.eos_token = None
    return _endless(pair.small, pair.large, pair.tokenizer)


def random_pair(
    shape: Shape,
    *,
    separate: bool = False,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Pair:
    """A pair of random weights whose texts never end.

    One model is on both sides, or two are.
    """
    small = random_model(shape, device, dtype)
    large = random_model(shape, device, dtype) if separate else small
    return _endless(small, large, make_tokenizer(shape.vocab))


def _endless(small: Any, large: Any, tokenizer: Any) -> Pair:
    for model in (small, large):
        model.config.max_position_embeddings = POSITIONS
        model.config.eos_token_id = model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
    return Pair(small, large, tokenizer)


def demo_pair() -> Pair:
    """The demo pair as it is shipped."""
    return Pair.from_pretrained(*pair_paths(), device="cpu", dtype=torch.float32)


def plain(pair: Pair) -> Pair:
    """Give the pair's ``generate`` its bare defaults.

    A checkpoint may come with settings, as a penalty for repetitions, that a router knows nothing
    of: with them the two would write different texts.
    """
    ends = sorted(pair.eos_ids)
    for model in (pair.small, pair.large):
        model.generation_config = GenerationConfig(
            eos_token_id=ends or None, pad_token_id=ends[0] if ends else 0
        )
    return pair


def random_model(
    shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A model of a shape, with tied embeddings."""
    config = AutoConfig.for_model(
        shape.family,
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    with _no_init():
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    model.to(device)  # before the draws, which a CPU takes a minute for in bfloat16
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.uniform_(-0.05, 0.05)
            else:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)
    return model.eval()


@lru_cache(maxsize=2)  # of 150 000 words it takes a second and 60 MB
def make_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of ``size`` words.

    It is like those of real models, but tokenizes no text.
    """
    words = {f"Ġ{i}": i for i in range(size)}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@contextlib.contextmanager
def _no_init() -> Iterator[None]:
    """Leaves out the draws of transformers, which take longer than all the rest of the loading."""
    for module in ("transformers.initialization", "transformers.modeling_utils"):  # 5 and 4
        with contextlib.suppress(ImportError, AttributeError):
            no_init_weights = import_module(module).no_init_weights
            break
    else:
        no_init_weights = contextlib.nullcontext
    with no_init_weights():
        yield
