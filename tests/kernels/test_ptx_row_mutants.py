"""Faults planted in the code of `csrc/cuda/rows.cu`, one at a time: the interpreter has to notice.

As test_ptx_mutants.py does it for Triton's kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from support.emulated_cuda import needs_nvcc
from support.emulated_rows import Rows
from support.ptx.faults import Fault
from support.ptx.mutants import Mutant, mutants
from support.ptx.program import Program

pytestmark = needs_nvcc
RESULTS = ("max_logit", "lse", "entropy", "topk_logits", "topk_ids", "valid", "token", "logprob")
LAST_RANK = "the list's own barrier before its last ranking: one after the last offer covers it"


def rows(
    count: int, vocab: int, k: int = 17, temperature: float = 1.0, uniform: float = 0.97, **how: Any
) -> Rows:
    """Rows in a buffer of NaN that ends with the last of them."""
    generator = torch.Generator().manual_seed(vocab)
    buffer = torch.full((count * (vocab + 3) - 3,), torch.nan, dtype=torch.bfloat16)
    logits = buffer.as_strided((count, vocab), (vocab + 3, 1))
    logits.copy_(torch.randn(count, vocab, generator=generator) * 4)
    numbers = torch.linspace(0.3, uniform, count, dtype=torch.float64)
    return Rows(logits, k, uniform=numbers, temperature=temperature, **how)


def few(temperature: float) -> Iterator[Rows]:
    yield rows(2, 3 * 1024 + 77, temperature=temperature)


def many(temperature: float) -> Iterator[Rows]:
    """Few tiles and many, ties, lists that are overrun, warps with several rows."""
    yield from few(temperature)
    yield rows(44, 90, 9, temperature)
    yield rows(2, 97, temperature=temperature)
    yield rows(2, 10 * 1024, 33, temperature, multiprocessors=2, seed=5)
    yield rows(2, 2100, temperature=temperature, cuts=(20, 0.95, 0.0))
    yield rows(1, 66 * 1024, 64, temperature)
    ties = rows(1, 9 * 1024 + 5, 33, temperature)
    ties.logits.copy_(torch.arange(9 * 1024 + 5) * 7 % 5)
    yield ties
    rising = rows(1, 6000, 64, temperature)
    rising.logits.copy_(torch.arange(6000))
    yield rising
    end = rows(1, 2000, 5, temperature, uniform=1 - 2.0**-53)
    end.logits.zero_()[:, 1500:] = -torch.inf
    yield end


def most(temperature: float) -> Iterator[Rows]:
    """More tiles than are looked at together."""
    yield rows(1, 257 * 1024, 64, temperature, multiprocessors=16)


def noticed(mutant: Mutant, runs: Iterable[Rows]) -> bool:
    """Whether it is a fault, or leaves other results."""
    for run in runs:
        good = run.outputs
        run.__post_init__()
        try:
            run.run(Program(mutant.kernel, like=run.program))
        except (Fault, AssertionError):
            return True
        finally:
            run.outputs, mutated = good, run.outputs
        if any(good[name].numpy().tobytes() != mutated[name].numpy().tobytes()
               for name in RESULTS):  # fmt: skip
            return True
    return False


def ran(runs: Iterator[Rows]) -> list[Rows]:
    found = list(runs)
    for run in found:
        run.run()
    assert len({id(run.program) for run in found}) == 1
    return found


def planted(run: Rows) -> list[Mutant]:
    assert run.program is not None
    return list(mutants(run.program.kernel))


@pytest.mark.slow
def test_order_between_warps() -> None:
    """A row that several warps share: the counter, what is before it and what is after."""
    runs = ran(few(1.0))
    kinds = ("atomic", "barrier", "cache")
    found = [mutant for mutant in planted(runs[0]) if mutant.kind in kinds]
    missed = [mutant for mutant in found if not noticed(mutant, runs)]
    assert not [mutant for mutant in missed if mutant.kind == "atomic"]
    assert len(found) - len(missed) >= 16


@pytest.mark.exhaustive
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_all_faults(temperature: float) -> None:
    """What is not noticed is explained: LAST_RANK."""
    runs = ran(many(temperature))
    found = planted(runs[0])
    missed = [mutant for mutant in found if not noticed(mutant, runs)]
    runs = ran(most(temperature))
    missed = [mutant for mutant in missed if not noticed(mutant, runs)]
    assert len(found) > 30
    assert [mutant.kind for mutant in missed] in ([], ["barrier"]), LAST_RANK
