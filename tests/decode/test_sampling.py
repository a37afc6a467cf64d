"""Sampling: what is refused, and that a routed answer follows the distribution of transformers."""

from __future__ import annotations

import pytest
import torch
from steer_decode import AlwaysSmall, Router, SteerError
from steer_decode.core.sampling import Sampling
from support.tiny import make_pair, prompt_text
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

PAIR = make_pair("llama", 3)


@pytest.mark.parametrize(
    ("options", "warpers"),
    [
        # Each cut is tested as such with the kernel; two of them by default with the loop.
        pytest.param({"temperature": 3.0}, [TemperatureLogitsWarper(3.0)], marks=pytest.mark.slow),
        ({"temperature": 3.0, "top_k": 4}, [TemperatureLogitsWarper(3.0), TopKLogitsWarper(4)]),
        ({"temperature": 2.0, "top_p": 0.8}, [TemperatureLogitsWarper(2.0), TopPLogitsWarper(0.8)]),
        pytest.param(
            {"temperature": 5.0, "min_p": 0.2},
            [TemperatureLogitsWarper(5.0), MinPLogitsWarper(0.2)],
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.few(1)
def test_frequencies_are_those_of_the_warped_distribution(options: dict, warpers: list) -> None:
    prompt, n = prompt_text(2), 1000
    ids = torch.tensor([PAIR.encode(prompt)])
    with torch.no_grad():
        logits = PAIR.small(ids).logits[:, -1, : PAIR.vocab_size]
    expected = LogitsProcessorList(warpers)(ids, logits).softmax(-1)[0] * n
    router = Router(PAIR, AlwaysSmall())
    outputs = router.cohort([prompt] * n, max_new_tokens=1, **options)
    counts = torch.tensor([o.token_ids[0] for o in outputs]).bincount(minlength=PAIR.vocab_size)
    assert counts[expected == 0].sum() == 0
    # Tokens that are hardly ever drawn share one bucket.
    often = expected >= 5
    seen = torch.cat([counts[often], counts[~often].sum()[None]])
    wanted = torch.cat([expected[often], expected[~often].sum()[None]])
    chi_square = ((seen - wanted) ** 2 / wanted.clamp_min(1.0)).sum()
    degrees = int(often.sum())
    assert degrees >= 2
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5 + 4


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
