"""Initial embeddings that know how words are made up.

A value is its tens and its units, an operation a sign with tens and units, a cell a column and
a row. Words that share a part start with that part's vector in common, beside a vector of their
own, so what is learnt about one word helps with the others. In one trial of the small model,
random embeddings took about one and a half times as many steps to add equally well. Nothing
keeps the parts in place later.
"""

from __future__ import annotations

import torch

from ..problems import mathematics, planning
from .tokenizer import vocabulary


def parts(word: str) -> list[str]:
    """The parts of a word.

    None for one that stands for itself.
    """
    if word in mathematics.VALUES:
        return [f"tens {int(word) // 10}", f"units {int(word) % 10}"]
    if word in mathematics.OPERATIONS:
        n = int(word[1:])
        return [f"sign {word[0]}", f"tens {n // 10}", f"units {n % 10}"]
    if word in planning.CELLS:
        return [f"column {word[0]}", f"row {word[1]}"]
    return []


def initial_embeddings(width: int, std: float) -> torch.Tensor:
    """Initial embeddings, (words, width) float32.

    Of standard deviation `std`, drawn from torch's generator.
    """
    words = vocabulary()
    own = torch.randn(len(words), width)
    names = sorted({part for word in words for part in parts(word)})
    shared = dict(zip(names, torch.randn(len(names), width), strict=True))
    for row, word in enumerate(words):
        made_of = parts(word)
        for part in made_of:
            own[row] += shared[part]
        own[row] *= std / (len(made_of) + 1) ** 0.5
    return own
