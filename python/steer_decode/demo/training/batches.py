"""Batches of training problems: what is drawn, how laid out.

The batch of step s depends on the seed, on s and on the weights alone, so a resumed run draws
what an uninterrupted one would have drawn.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ..problems.problem import DIFFICULTIES
from ..problems.tasks import DOMAINS, draw_training
from .tokenizer import Encoder

IGNORED = -100  # label of a position without loss
CELLS = tuple((domain, difficulty) for domain in DOMAINS for difficulty in DIFFICULTIES)

_SHORT_STEPS = (1, 2)


@dataclass(frozen=True)
class Chunk:
    """Sequences for one forward pass, (sequences, length) int64.

    They are right-padded to the longest. `labels[i, t]` is the token to be predicted at position t,
    IGNORED in prompt and padding. `decisions` marks the positions whose label is the first token of
    a step, and `cells[i]` is the index in CELLS of sequence i. Padding comes last, so causal
    attention needs no mask.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    decisions: torch.Tensor
    cells: torch.Tensor


@dataclass(frozen=True)
class _Sequence:
    ids: list[int]
    prompt_length: int
    cell: int


def _draw(
    encode: Encoder, rng: random.Random, weights: list[float], short_share: float
) -> _Sequence:
    cell = rng.choices(range(len(CELLS)), weights)[0]
    domain, difficulty = CELLS[cell]
    steps = rng.randint(*_SHORT_STEPS) if rng.random() < short_share else None
    prompt, solution = draw_training(domain, rng, difficulty, steps)
    prompt_ids = encode(prompt)
    return _Sequence([*prompt_ids, *encode(solution), encode.eos], len(prompt_ids), cell)


def _collate(encode: Encoder, group: list[_Sequence]) -> Chunk:
    length = max(len(sequence.ids) for sequence in group) - 1
    ids = torch.zeros(len(group), length, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORED)
    for row, sequence in enumerate(group):
        n, first = len(sequence.ids) - 1, sequence.prompt_length - 1
        tokens = torch.tensor(sequence.ids)
        ids[row, :n] = tokens[:-1]
        labels[row, first:n] = tokens[first + 1 :]
    decisions = ids == encode.step_break
    for row, sequence in enumerate(group):
        decisions[row, sequence.prompt_length - 1] = True
    return Chunk(ids, labels, decisions, torch.tensor([sequence.cell for sequence in group]))


def make_batch(
    encode: Encoder, seed: str, weights: list[float], short_share: float, size: int, chunk: int
) -> list[Chunk]:
    """`size` sequences in chunks of at most `chunk`.

    Sequences of like length are together. `weights` gives the relative frequency of each of CELLS;
    `short_share` is the share of problems with one or two steps.
    """
    rng = random.Random(seed)
    drawn = [_draw(encode, rng, weights, short_share) for _ in range(size)]
    drawn.sort(key=lambda sequence: len(sequence.ids))
    return [_collate(encode, drawn[i : i + chunk]) for i in range(0, size, chunk)]
