"""The two models, and how each is trained.

Every number that may be turned is here. Both are Llama models with a head size of 32 (vLLM takes 32
and 64) and tied embeddings. The large model sees every problem, most often those that it still gets
wrong. The small model sees each difficulty with a fixed weight that falls from easy to hard, so
that its step errors spread over the difficulties: this share is the knob that sets its accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import LlamaConfig

from .tokenizer import BOS, EOS, MAX_LENGTH, PAD, vocabulary


@dataclass(frozen=True)
class Recipe:
    """Shape and training of one model.

    `weights` gives, by domain, the relative frequency of difficulties 1 to 5 in training; None
    makes it follow the model's running error. `batch` counts sequences for one optimiser step
    over all domains, and `chunk` the sequences of one forward pass.
    """

    name: str
    layers: int
    width: int
    heads: int
    inner: int
    learning_rate: float
    steps: int
    weights: dict[str, tuple[float, float, float, float, float]] | None
    batch: int = 72
    chunk: int = 18
    warm_up: int = 50
    final_rate: float = 0.03  # of the peak, at the end of the cosine
    weight_decay: float = 0.1
    clip: float = 1.0
    initial_std: float = 0.08  # 0.02 learns far more slowly at this size
    short_share: tuple[float, float] = (0.60, 0.15)  # problems of one or two steps, first to last


LARGE = Recipe(
    name="large", layers=4, width=256, heads=8, inner=768,
    learning_rate=2e-3, steps=4200, weights=None,
)  # fmt: skip

SMALL = Recipe(
    name="small", layers=2, width=96, heads=3, inner=256,
    learning_rate=5e-3, steps=950,
    weights={  # by difficulty, out of about a hundred sequences
        "math": (17.0, 3.0, 1.0, 0.4, 0.5),
        "qa": (22.0, 1.1, 0.95, 0.8, 0.7),
        "planning": (12.0, 3.0, 0.7, 0.3, 1.0),
    },
    chunk=36,
)  # fmt: skip

RECIPES = {recipe.name: recipe for recipe in (SMALL, LARGE)}


def model_config(recipe: Recipe) -> LlamaConfig:
    """The transformers configuration of a recipe's model."""
    words = vocabulary()
    return LlamaConfig(
        vocab_size=len(words),
        hidden_size=recipe.width,
        intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        head_dim=recipe.width // recipe.heads,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=recipe.initial_std,
        tie_word_embeddings=True,
        pad_token_id=words.index(PAD),
        bos_token_id=words.index(BOS),
        eos_token_id=words.index(EOS),
    )
