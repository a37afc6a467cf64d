"""sample_logits against logit_stats alone, and against sampling as one writes it in torch.

    python -m pytest benchmarks/bench_sample_logits.py  a group for each case, ours and the peers
    python benchmarks/bench_sample_logits.py            ratios, measured in turns; no plugin needed
    steer bench kernels --ops sample_logits             at temperature 1: in turns, medians, JSON

Cases are chosen for what they make the kernel do: nothing more than logit_stats (greedy), a second
look at one tile (temperature 1), a second exponential an element (other temperatures), a draw from
the top-k list, and the sort that stands in where the list does not cover the nucleus: these logits
are as flat as noise, a language model's seldom are.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bench_logit_stats import least_microseconds
from grouped import grouped
from torch import Tensor

import steer_kernels

SHAPES = [(1, 151_936), (8, 151_936)]
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 1": {},
    "temperature 0.6": {"temperature": 0.6},
    "temperature 0.8": {"temperature": 0.8},
    "temperature 1.3": {"temperature": 1.3},
    "top_k 20": {"temperature": 0.8, "top_k": 20},
    "min_p 0.1": {"min_p": 0.1},
    "top_p 0.95, sort": {"top_p": 0.95},
}


def torch_chain(
    logits: Tensor,
    uniform: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    """The usual warpers and a draw by the running sum; statistics not included."""
    if temperature == 0:
        return logits.argmax(-1)
    x = logits.float() / temperature
    if top_k:
        x = x.masked_fill(x < x.topk(top_k)[0][:, -1:], -torch.inf)
    if top_p < 1:
        ascending, ids = x.sort(-1)
        cut = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        cut[:, -1] = False
        x = x.masked_fill(cut.scatter(1, ids, cut), -torch.inf)
    if min_p:
        p = x.softmax(-1)
        x = x.masked_fill(p < min_p * p.amax(-1, keepdim=True), -torch.inf)
    through = x.softmax(-1).cumsum(-1)
    return torch.searchsorted(through, uniform[:, None] * through[:, -1:], right=True)[:, 0]


def inputs(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator) * 4, torch.rand(shape[0], generator=generator)


test_sample_logits = grouped("sample_logits")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("contender", ["steer", "stats alone", "torch"])
def test_cuts(benchmark: Any, contender: str, case: str, shape: tuple[int, int]) -> None:
    logits, uniform = inputs(shape)
    torch.set_num_threads(1)
    benchmark.group = f"{case}, {shape[0]}x{shape[1]}"
    benchmark.name = contender
    if contender == "steer":
        benchmark(lambda: steer_kernels.sample_logits(logits, uniform, **CASES[case]))
    elif contender == "torch":
        benchmark(lambda: torch_chain(logits, uniform, **CASES[case]))
    else:
        benchmark(lambda: steer_kernels.logit_stats(logits))


def main() -> None:
    print(f"torch {torch.__version__}, {steer_kernels.cpu_isa()}, one thread, float32")
    torch.set_num_threads(1)
    for shape in SHAPES:
        logits, uniform = inputs(shape)
        for name, case in CASES.items():
            us = least_microseconds(
                {
                    "stats": lambda: steer_kernels.logit_stats(logits),  # noqa: B023
                    "sample": lambda: steer_kernels.sample_logits(logits, uniform, **case),  # noqa: B023
                    "torch": lambda: torch_chain(logits, uniform, **case),  # noqa: B023
                },
                rounds=20,
            )
            more = (us["sample"] / us["stats"] - 1) * 100
            print(
                f"B = {shape[0]} {name:17s} {us['sample'] / shape[0]:7.1f} us a row, "
                f"{more:+6.1f} % of logit_stats, torch {us['torch'] / us['sample']:5.1f}x"
            )


if __name__ == "__main__":
    main()
