"""What only the search for cuts in Triton has: steps that programs share, and what they read.

What it draws is tested with the other backends in test_sample_logits.py, its compiled code in
test_sample_logits_triton.py.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from support.compiled import DEVICE

pytest.importorskip("triton")

from support.emulated import Device, Launch, Programs
from support.ptx.access import Access
from support.ptx.memory import Memory
from support.ptx.order import Knower

from steer_kernels import reference
from steer_kernels.ops._sampling import Cuts
from steer_kernels.triton import sample_logits as module
from steer_kernels.triton import select
from steer_kernels.triton.heuristics import TILE, RowSplit

BOTH = (2.0, 90, 0.9, 0.01)


def undecided(logits: torch.Tensor, cuts: tuple, split: RowSplit) -> tuple[torch.Tensor, ...]:
    """Token, log-probability and bound of rows, none of which a list decides."""
    rows, columns = logits.shape
    token = torch.full((rows,), -1, device=DEVICE)
    logprob = torch.empty(rows, device=DEVICE)
    uniform = torch.linspace(0.1, 0.9, rows, dtype=torch.float64, device=DEVICE)
    top = logits.amax(-1).float()
    with module.device_of(logits):
        state = select.search(
            logits, uniform, Cuts(*cuts), columns, split, top, token, logprob, True
        )
    truth = reference.sample_logits(logits, uniform, *cuts, k=4)
    assert torch.equal(token, truth[6])
    torch.testing.assert_close(logprob, truth[7], atol=2e-6, rtol=2e-6)
    return token, logprob, state[:, select.VALUE.value : select.TOTAL.value + 1]


@pytest.mark.parametrize("cuts", [(4.0, 0, 0.95, 0.0), (1.0, 700, 1.0, 0.0), BOTH], ids=str)
def test_split_does_not_change_a_bit(cuts: tuple) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = (torch.randn(1, 3 * TILE + 1, generator=generator) * 4).bfloat16().to(DEVICE)
    found = [undecided(logits, cuts, RowSplit(4, each, -(-4 // each))) for each in (1, 3, 4)]
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


# Triton's interpreter rounds denormal bfloat16: these two become zeros in 16 bits.
VALUES = [-torch.inf, -3e38, -2.5, -1.0, -2e-38, -1e-44, -0.0, 0.0, 1e-44, 1e-20, 1.0,
          1.0000001, 7.0]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "cuts",
    [(1.0, 75, 1.0, 0.0), (1.0, 75, 0.8, 0.0), (1.0, 0, 0.999, 0.0), (9.0, 0, 0.5, 0.3),
     (1e-30, 0, 0.9, 0.0), (1e30, 99, 0.9, 0.0), (1.0, 0, 1.0, 0.9)],
    ids=str,
)  # fmt: skip
def test_cuts_at_any_value(cuts: tuple, dtype: torch.dtype) -> None:
    """Largest and smallest numbers, both zeros, ties of all: found within the steps there are."""
    row = torch.tensor(VALUES * 9, dtype=torch.float64).to(dtype)
    logits = torch.stack([row, row.where(row < 1e-30, -torch.inf), row.where(row < 0, row[1])])
    undecided(logits.to(DEVICE), cuts, RowSplit(1, 1, 1))


def test_infinity_weighs_all() -> None:
    row = torch.tensor(VALUES * 9)
    row[[5, 70]] = torch.inf
    for cuts in ((1.0, 75, 0.9, 0.0), (1.0, 0, 0.4, 0.1)):
        undecided(row.expand(2, -1).to(DEVICE), cuts, RowSplit(1, 1, 1))


def test_steps_follow_the_cuts_and_the_bits_of_a_value() -> None:
    steps = {
        dtype: [select.steps_of(Cuts(1.0, *cuts), 1000, dtype) for cuts in (
            (0, 1.0, 0.1), (50, 1.0, 0.0), (0, 0.9, 0.0), (50, 0.9, 0.1), (1000, 0.9, 0.0))]
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
    }  # fmt: skip
    assert steps == {torch.bfloat16: [1, 5, 5, 9, 5], torch.float16: [1, 6, 6, 11, 6],
                     torch.float32: [1, 9, 9, 17, 9]}  # fmt: skip


# ---- what programs read --------------------------------------------------------------------------


def launched(
    made: Programs, cuts: tuple, splits: int, logits: torch.Tensor, seed: int = 0
) -> Launch:
    """The search that a call makes, after its result is checked."""
    uniform = torch.tensor([0.3, 0.81], dtype=torch.float64)
    device = Device(made, splits=splits, seed=seed)
    with device.on():
        out = module.sample_logits_triton(logits, uniform, Cuts(*cuts), 4, logits.shape[1])
    truth = reference.sample_logits(logits, uniform, *cuts, k=4)
    assert torch.equal(out[6], truth[6])
    (launch,) = (launch for launch in device.launched if launch.name == "select_kernel")
    return launch


def bytes_read(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Of the logits, by program."""
    read: Counter[int] = Counter()
    load = Memory.load

    def counted(
        memory: Memory, access: Access, address: np.ndarray, threads: np.ndarray, knower: Knower
    ) -> list[np.ndarray]:
        _, owner = memory.places(access, address)
        if memory.buffers[owner[0] - 1].name == "logits":
            read[knower.time.block] += len(np.unique(address)) * access.size * access.count
        return load(memory, access, address, threads, knower)

    monkeypatch.setattr(Memory, "load", counted)
    assert launch.again(launch.program)
    return read


def test_a_step_reads_a_row_once(made: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """All programs of a row together; the one that draws reads a tile and a logit more."""
    generator = torch.Generator().manual_seed(1)
    logits = (torch.randn(2, 4 * TILE, generator=generator) * 4).bfloat16()
    cuts, splits = (3.0, 0, 0.9, 0.0), 2
    launch = launched(made, cuts, splits, logits)
    assert launch.grid == 2 * splits
    read = bytes_read(launch, monkeypatch)
    for row in range(2):
        of_row = sum(read[1 + row * splits + i] for i in range(splits))
        steps, rest = divmod(of_row - (TILE + 1) * 2, 4 * TILE * 2)
        assert rest == 0
        assert 2 <= steps <= select.steps_of(Cuts(*cuts), 4 * TILE, torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_programs_may_begin_in_any_order(made: Programs, seed: int) -> None:
    """Blocks take turns by chance, and so do the parts that each draws."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(2, 2 * TILE + 77, generator=generator) * 4).bfloat16()
    launch = launched(made, BOTH, 3, logits, seed)
    assert launch.grid == 2 * 3
