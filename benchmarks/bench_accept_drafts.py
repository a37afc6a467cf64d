"""accept_drafts against the acceptance test as one writes it in torch.

    python benchmarks/bench_accept_drafts.py                        # a table, five minutes
    python benchmarks/bench_accept_drafts.py --drafts 4 --dtypes bfloat16 --threads 2

Rows are the drafts of a text and the place behind them. Peers: softmax of both, the ratio, and
max(0, p - q) with multinomial of the refused rows alone (`torch`) or of all rows, as a loop that
reads nothing on the host has it (`torch, all rows`); neither gives statistics.
`sample_logits_packed` of the large model's rows is what a loop does without drafts. Contenders take
turns within each round, each with the caches as it leaves them, and the fastest round counts: CPU
time of one thread, the wall clock on more, calls included.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from rounds import fastest
from torch import Tensor

import steer_kernels

DTYPES = ("float32", "bfloat16")
REFUSED = ("none", "one", "all")
CUTS = {"": (1.0, 0, 1.0), "temperature 0.7": (0.7, 0, 1.0), "top_k 20": (0.8, 20, 1.0)}
LAST = 1.0 - 2.0**-24  # refuses any draft that can be refused


class Problem(NamedTuple):
    large: Tensor
    small: Tensor
    drafts: Tensor
    uniform: Tensor


def problem(drafts: int, vocab: int, dtype: torch.dtype, refused: str, cuts: tuple) -> Problem:
    """Peaked logits of two models that agree by three quarters, and drafts that p has less of."""
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(drafts + 1, vocab, generator=generator) * 4
    small = large + torch.randn(drafts + 1, vocab, generator=generator)
    large, small = large.to(dtype), small.to(dtype)
    gap = probabilities(small, *cuts) - probabilities(large, *cuts)
    ids, uniform = gap.argmax(-1), torch.zeros(drafts + 1, dtype=torch.float64)
    ids[-1] = -1
    uniform[: {"none": 0, "one": 1, "all": drafts}[refused]] = LAST
    return Problem(large, small, ids, uniform)


def probabilities(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    x = logits.float() / temperature
    if top_k:
        x = x.masked_fill(x < x.topk(top_k)[0][:, -1:], -torch.inf)
    if top_p < 1:
        ascending, ids = x.sort(-1)
        cut = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        cut[:, -1] = False
        x = x.masked_fill(cut.scatter(1, ids, cut), -torch.inf)
    return x.softmax(-1)


def torch_chain(given: Problem, cuts: tuple, all_rows: bool) -> Tensor:
    """Tokens, as transformers' assisted generation finds them."""
    p, q = probabilities(given.large, *cuts), probabilities(given.small, *cuts)
    q[-1] = 0.0  # the place behind the drafts
    at = given.drafts.clamp(min=0)[:, None]
    ratio = (p.gather(1, at) / q.gather(1, at))[:, 0]
    accepted = (given.uniform < ratio) & (given.drafts >= 0)
    if all_rows:
        redrawn = torch.multinomial((p - q).clamp(min=0.0), 1)[:, 0]
        return torch.where(accepted, given.drafts, redrawn)
    tokens, refused = given.drafts.clone(), ~accepted
    tokens[refused] = torch.multinomial((p[refused] - q[refused]).clamp(min=0.0), 1)[:, 0]
    return tokens


def contenders(given: Problem, cuts: tuple) -> dict[str, Callable[[], object]]:
    large, small, drafts, uniform = given
    return {
        "steer": lambda: steer_kernels.accept_drafts(large, drafts, uniform, small, *cuts),
        "torch": lambda: torch_chain(given, cuts, all_rows=False),
        "torch, all rows": lambda: torch_chain(given, cuts, all_rows=True),
        "sample_logits_packed": lambda: steer_kernels.sample_logits_packed(large, uniform, *cuts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drafts", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--refused", nargs="+", choices=REFUSED, default=REFUSED)
    parser.add_argument("--cuts", nargs="+", choices=CUTS, default=list(CUTS))
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each line")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {steer_kernels.cpu_isa()}, {options.threads} thread(s)")
    for dtype in options.dtypes:
        for cuts in options.cuts:
            for drafts in options.drafts:
                for refused in options.refused:
                    given = problem(
                        drafts, options.vocab, getattr(torch, dtype), refused, CUTS[cuts]
                    )
                    table = contenders(given, CUTS[cuts])
                    best = fastest(table, options.seconds, options.threads, warm=True)
                    ours = best.pop("steer")
                    peers = ", ".join(f"{name} {t / ours:5.2f}x" for name, t in best.items())
                    print(
                        f"{dtype:>8} {drafts} drafts, {refused:>4} refused {cuts:15s}: "
                        f"{1e6 * ours / (drafts + 1):7.1f} us a row; {peers}",
                        flush=True,
                    )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
