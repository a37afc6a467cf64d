"""The CUDA kernels as nvcc compiles them, run as PTX on the CPU against their definitions."""

from __future__ import annotations

import re

import pytest
import torch
from support.append_problems import bits, filled, index, problem
from support.emulated_cuda import CSRC, kv_append, needs_nvcc, ptx_of, step_update
from support.step_problems import CLASSES, WORDS, assert_same, copy_of
from torch import Tensor

from steer_kernels import StepState, reference

pytestmark = needs_nvcc
EMULATED = {"kv_append_kernel", "step_update_kernel", "rows_kernel"}  # the last: test_ptx_rows
CAPABILITIES = [90, pytest.param(80, marks=pytest.mark.slow)]


def test_every_cuda_kernel_is_run_here() -> None:
    text = "".join(path.read_text() for path in (CSRC / "cuda").iterdir())
    assert set(re.findall(r"__global__[^;{(]*(?:\([^)]*\))?\s+(\w+)\(", text)) == EMULATED


def check_append(arguments: list[Tensor], capability: int, unit: int) -> None:
    truth = [argument.clone() for argument in arguments]
    reference.kv_append_(*truth)
    assert kv_append(*arguments, capability=capability) == unit
    for actual, expected in zip(arguments, truth, strict=True):
        assert torch.equal(bits(actual), bits(expected))


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    ("dtype", "sizes", "unit"),
    [
        (torch.bfloat16, (16, 24), 16),
        (torch.float32, (5, 7), 4),
        (torch.bfloat16, (7, 3), 2),
        (torch.uint8, (5, 16), 1),
        (torch.float32, (64, 128), 16),  # several blocks a head
    ],
)  # fmt: skip
def test_kv_append(dtype: torch.dtype, sizes: tuple[int, int], unit: int, capability: int) -> None:
    """Every unit, a part of a unit at a token's end, and no byte beyond."""
    tokens = 40 if sizes == (64, 128) else 4
    capacity = tokens + 9
    arguments = [
        *(filled((5, 2, capacity, size), dtype, i) for i, size in enumerate(sizes)),
        *(filled((3, 2, tokens, size), dtype, i + 2) for i, size in enumerate(sizes)),
        index(3, 0, 4), index(9, 0, 7), index(tokens, 0, 2),
    ]  # fmt: skip
    check_append(arguments, capability, unit)


def test_kv_append_leaves_out_what_does_not_fit() -> None:
    """Nothing is read or written outside: the emulated memory has gaps around each tensor."""
    arguments = problem(torch.bfloat16)
    before = [argument.clone() for argument in arguments]
    arguments[4:] = [index(5, -1, 2), index(0, 0, 7), index(2, 1, 3)]
    kv_append(*arguments)
    for actual, expected in zip(arguments[:2], before[:2], strict=True):
        assert torch.equal(bits(actual), bits(expected))


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_step_update(capability: int) -> None:
    """More rows than a block has threads; all kinds of tokens, full rows and finished ones."""
    rows, capacity = 150, 12
    generator = torch.Generator().manual_seed(0)

    def numbers(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape or (rows,), generator=generator)

    length = numbers(capacity)
    state = StepState(
        numbers(len(WORDS), rows, capacity), length, (numbers(capacity) % (length + 1)),
        torch.rand(rows, generator=generator, dtype=torch.float64), numbers(4),
        numbers(16).to(torch.uint8), numbers(capacity + 1),
    )  # fmt: skip
    token, score = numbers(len(WORDS)), torch.rand(rows, generator=generator)
    token[7] = -1  # no token: the row stays as it is
    active = numbers(4) > 0
    expected = copy_of(state)
    sound = torch.arange(rows) != 7
    kept = StepState(*(field[sound].clone() for field in expected))
    reference.step_update_(*kept, token[sound], score[sound], CLASSES, active=active[sound],
                           max_step=3)  # fmt: skip
    step_update(state, token, score, CLASSES, active, max_step=3, capability=capability)
    assert_same(StepState(*(field[sound] for field in state)), kept)
    assert_same(StepState(*(field[7:8] for field in state)),
                StepState(*(field[7:8] for field in expected)))  # fmt: skip


def test_the_text_is_of_the_architecture_that_was_asked_for() -> None:
    assert ".target sm_80" in ptx_of("step_update.cu", 80)
