"""Faults planted in the compiled kernels, one at a time: the interpreter of PTX has to notice.

Each barrier left out, each atomic weakened, each load past L1 made a plain one, each bound of a
mask moved by one. A mutant is run on launches that the package's host code makes; it is noticed if
it is a fault, or if it leaves other bytes behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from support.ptx.faults import Fault
from support.ptx.mutants import Mutant, mutants
from support.ptx.program import Program
from torch import Tensor

pytest.importorskip("triton")

from support.emulated import Device, Launch, Programs

import steer_kernels
from steer_kernels.ops._sampling import Cuts
from steer_kernels.triton.accept_drafts import accept_drafts_triton
from steer_kernels.triton.heuristics import TILE
from steer_kernels.triton.logit_stats import logit_stats_triton
from steer_kernels.triton.sample_logits import sample_logits_triton

SOURCES = Path(steer_kernels.__file__).parent / "triton"
K = 17  # as long a list in registers as for 20
ALMOST_ONE = 1 - 2.0**-53


# ---- launches ------------------------------------------------------------------------------------


class Case(NamedTuple):
    """Columns and splits of two rows, and how a token is drawn from them."""

    columns: int
    splits: int = 1
    cuts: tuple = ()
    uniform: float = 0.97


def logits(columns: int, seed: int, scale: float) -> Tensor:
    """Two rows; the buffer ends with the second, between them is NaN."""
    generator = torch.Generator().manual_seed(seed)
    buffer = torch.full((2 * columns + 3,), torch.nan, dtype=torch.bfloat16)
    view = buffer.as_strided((2, columns), (columns + 3, 1))
    return view.copy_(torch.randn(2, columns, generator=generator) * scale)


def stats(case: Case) -> None:
    logit_stats_triton(logits(case.columns, case.columns, 4.0), K, case.columns)


def sample(case: Case) -> None:
    x = logits(case.columns, case.columns, 4.0)
    uniform = torch.tensor([0.3, case.uniform], dtype=torch.float64)
    sample_logits_triton(x, uniform, Cuts(*case.cuts), K, case.columns)


def accept(case: Case) -> None:
    """The draft of neither row stands."""
    large, small = (logits(case.columns, case.columns + i, 2.0) for i in (0, 1))
    drafts = (small.float() - large.float()).argmax(-1)
    uniform = torch.full((2,), case.uniform, dtype=torch.float64)
    accept_drafts_triton(large, drafts, uniform, small, Cuts(*case.cuts), K, case.columns)


PLAIN, GREEDY, LISTED = (0.7, 0, 1.0, 0.0), (0.0, 0, 1.0, 0.0), (1.0, 0, 0.9, 0.0)
FIRST_RANKS = (1.0, 20, 1.0, 0.0)  # a list of 21 in 32 slots
SEARCHED, ALL_CUTS = (3.0, 0, 0.95, 0.0), (2.0, 90, 0.9, 0.01)
TWO = 2 * TILE + 77
# A last column at each place of a thread's sixteen, whose masks are sixteen comparisons.
ENDS = [128 * i + 8 * 12 + r for r in range(8) for i in (0, 8)]
# As many candidates as fill a part of a merge, and more than fill three of four.
MANY = [(8 * TILE - 5, 8), (16 * TILE - 3, 16), (24 * TILE - 1, 24), (25 * TILE - 1, 25)]


def _cases(cuts: tuple, more: Iterable[Case] = (), many: bool = True) -> list[Case]:
    return [Case(97, 1, cuts), Case(TWO, 2, cuts), *more, *(Case(v, 1, cuts) for v in ENDS),
            *(Case(*size, cuts) for size in (MANY if many else []))]  # fmt: skip


class Target(NamedTuple):
    kernel: str
    call: Callable[[Case], None]
    cases: list[Case]


TARGETS = {
    "logit_stats": Target("logit_stats_kernel", stats, _cases(())),
    "plain": Target("sample_logits_kernel", sample, _cases(PLAIN, (
        Case(v, 1, PLAIN, ALMOST_ONE) for v in range(300, 308)))),
    "greedy": Target("sample_logits_kernel", sample, _cases(GREEDY)),
    "cut": Target("sample_logits_kernel", sample, _cases(LISTED, [Case(97, 1, FIRST_RANKS)])),
    "select": Target("select_kernel", sample, _cases(ALL_CUTS, [
        Case(TWO, 3, SEARCHED), Case(TWO, 3, (3.0, 100, 1.0, 0.0)), Case(4 * TILE, 4, SEARCHED)],
        False)),
    "bounds": Target("bounds_kernel", accept, _cases(PLAIN, (), False)[:2]),
    "bounds, cut": Target("bounds_kernel", accept, _cases(ALL_CUTS, [
        Case(TWO, 2, SEARCHED), Case(TWO, 2, (3.0, 100, 1.0, 0.0)), Case(97, 1, FIRST_RANKS)],
        False)),
    "verdict": Target("verdict_kernel", accept, _cases(PLAIN, (), False)[:1]),
    "redraw": Target("redraw_kernel", accept, _cases(PLAIN, [Case(TWO, 2, SEARCHED)], False)),
}  # fmt: skip


def launches(made: Programs, target: Target, cases: Iterable[Case]) -> list[Launch]:
    """Of one program: the first that the target's kernel is compiled to."""
    device = Device(made)
    with device.on():
        for case in cases:
            device.splits = case.splits
            target.call(case)
    of_kernel = [launch for launch in device.launched if launch.name == target.kernel]
    return [launch for launch in of_kernel if launch.program is of_kernel[0].program]


def noticed(mutant: Mutant, made: list[Launch]) -> str:
    """How it is, "" if it is not."""
    program = Program(mutant.kernel, like=made[0].program)
    for launch in made:
        try:
            if not launch.again(program):
                return "wrong bytes"
        except Fault as fault:
            return fault.kind
    return ""


# ---- what is no fault ----------------------------------------------------------------------------

COVERED = "Triton puts a barrier before an atomic: of it and the kernel's own each covers the other"
BEFORE = "another launch has written it: L1 is empty at the start of a launch"
ALONE = "it orders nothing, and the interpreter's atomics are whole at any scope"
BETWEEN = "of barriers that Triton puts into its reductions some lie between the same accesses"
OWN = "the same program has written it"
TILES = "it loads tiles from the 33rd on, which no row here has"
WHOLE = "the list is as long as what is returned, so no rank reaches k"
EQUIVALENT = [  # kind, targets, what the line of the source holds, why
    ("barrier", None, "tl.debug_barrier()", COVERED),
    ("barrier", None, "tl.atomic_add(arrived", COVERED),
    ("barrier", ("select",), "tl.atomic_add(word", COVERED),
    ("atomic", ("select",), "tl.atomic_add(word, -1,", ALONE),
    ("cache", ("select",), "tl.load(masses + tile", OWN),
    ("cache", ("select",), "tl.cumsum(in_group, axis=0) - in_group", OWN),  # the line after a load
    ("cache", ("select",), "return total", TILES),  # as that
    ("mask", ("select",), "mask=(tile < tiles)[:, None]", TILES),
    ("barrier", ("select",), "standard.py", BETWEEN),
    ("cache", ("bounds", "bounds, cut"), 'cache_modifier=".cg"', BEFORE),
    ("mask", ("logit_stats", "plain", "greedy"), "(rank < k)", WHOLE),
]


def why_equivalent(mutant: Mutant, name: str) -> str:
    """The reason why a mutant is as right as the kernel, "" where none is known."""
    file, _, line = mutant.old.where.partition(":")
    source = (SOURCES / file).read_text().splitlines() if (SOURCES / file).exists() else []
    text = source[int(line) - 1] if source else mutant.old.where
    for kind, names, holds, why in EQUIVALENT:
        if mutant.kind == kind and holds in text and (names is None or name in names):
            return why
    return ""


# ---- tests ---------------------------------------------------------------------------------------


def examine(made: Programs, name: str, chosen: slice = slice(None)) -> None:
    """What is not noticed is explained: see EQUIVALENT; and it is one of ten, or seven, at most."""
    target = TARGETS[name]
    run = launches(made, target, target.cases)
    planted = list(mutants(run[0].program.kernel))[chosen]
    missed = [mutant for mutant in planted if not noticed(mutant, run)]
    unexplained = [str(mutant) for mutant in missed if not why_equivalent(mutant, name)]
    assert not unexplained, unexplained
    if chosen == slice(None) and len(planted) > 20:
        share = (
            0.15 if name == "select" else 0.1
        )  # its barriers and its merge are in pairs and fours
        assert len(missed) <= share * len(planted), [str(mutant) for mutant in missed]


@pytest.mark.parametrize(
    "chosen",
    [pytest.param(slice(None, None, 3), id="some"),
     pytest.param(slice(None), id="all", marks=pytest.mark.slow)],
)  # fmt: skip
def test_order_in_logit_stats(made: Programs, chosen: slice) -> None:
    """Barriers and the atomic, on one launch of two programs a row."""
    run = launches(made, TARGETS["logit_stats"], [Case(TWO, 2)])
    planted = [m for m in mutants(run[0].program.kernel) if m.kind in ("barrier", "atomic")][chosen]
    missed = [mutant for mutant in planted if not noticed(mutant, run)]
    assert len(planted) > 8
    assert all(why_equivalent(mutant, "logit_stats") == COVERED for mutant in missed), missed
    assert len(missed) <= 2


def test_the_two_barriers_before_the_atomic_are_needed(made: Programs) -> None:
    """With both of them gone a thread adds to the counter before others have stored."""
    run = launches(made, TARGETS["logit_stats"], [Case(TWO, 2)])
    kernel = run[0].program.kernel
    while pair := [
        mutant for mutant in mutants(kernel)
        if mutant.kind == "barrier" and why_equivalent(mutant, "logit_stats") == COVERED
    ]:  # fmt: skip
        kernel = pair[0].kernel
    with pytest.raises(Fault, match=r"order: |race: "):
        run[0].again(Program(kernel, like=run[0].program))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "every"), [("select", 24), ("redraw", 8)])
def test_some_faults(made: Programs, name: str, every: int) -> None:
    examine(made, name, slice(None, None, every))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", TARGETS)
def test_all_faults(made: Programs, name: str) -> None:
    examine(made, name)
