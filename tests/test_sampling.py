"""Sampling follows the distribution that the warpers of transformers leave."""

from __future__ import annotations

import pytest
import torch
from steer_decode import SteerError
from steer_decode.sampling import Sampler, Sampling

from steer_kernels import logit_stats

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, 9.0]])  # the last is padding
VOCAB = 4


def draws(sampling: Sampling, n: int) -> torch.Tensor:
    sampler = Sampler(sampling, seed=1, vocab_size=VOCAB)
    stats = logit_stats(LOGITS, k=2, vocab_size=VOCAB)
    return torch.tensor([sampler.draw(LOGITS, stats) for _ in range(n)]).bincount(minlength=5)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(1.0), Sampling(0.7), Sampling(1.0, top_k=2), Sampling(1.0, top_p=0.8),
     Sampling(1.5, min_p=0.2)],
)  # fmt: skip
def test_frequencies_are_those_of_the_warped_distribution(sampling: Sampling) -> None:
    n = 4000
    expected = sampling.warpers()(None, LOGITS[:, :VOCAB]).softmax(-1)[0] * n
    counts = draws(sampling, n)
    assert counts[VOCAB:].sum() == 0
    assert counts[:VOCAB][expected == 0].sum() == 0
    kept = expected > 0
    chi_square = (((counts[:VOCAB] - expected) ** 2)[kept] / expected[kept]).sum()
    assert chi_square < 16.3  # 0.1 % point at 3 degrees of freedom


def test_temperature_zero_is_greedy() -> None:
    assert draws(Sampling(0.0), 20).tolist() == [20, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 .* got -1"),
        ({"temperature": float("nan")}, "temperature must be 0 .* got nan"),
        ({"temperature": float("inf")}, "temperature must be 0 .* got inf"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0"),
        ({"top_k": -1}, "top_k must be 0 .* got -1"),
        ({"min_p": 2.0}, r"min_p must lie in \[0, 1\], got 2"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        Sampling(**options)
