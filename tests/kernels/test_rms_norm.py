"""rms_norm on every backend against its definition; bits, layouts and bad arguments."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.backends import needs_extension
from torch import Tensor

from steer_kernels import reference, rms_norm
from steer_kernels.ops import rms_norm as op_module

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
Norm = Callable[..., Tensor]


@pytest.fixture(params=["reference", pytest.param("cpu", marks=needs_extension)])
def norm(request: pytest.FixtureRequest) -> Norm:
    return op_module._fallback if request.param == "reference" else rms_norm


def problem(*sizes: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """x [..., K] and a weight [K]."""
    generator = torch.Generator().manual_seed(sum(sizes))
    x, weight = (torch.randn(s, generator=generator).to(dtype) for s in (sizes, sizes[-1:]))
    return x, weight


def check(actual: Tensor, x: Tensor, weight: Tensor, epsilon: float) -> None:
    """Two roundings to the dtype, and some of float32."""
    truth = reference.rms_norm(x, weight, epsilon, out_dtype=torch.float64)
    assert actual.dtype == x.dtype
    assert actual.shape == x.shape
    assert actual.is_contiguous()
    allowed = (2.5 * ROUNDING[x.dtype] + 2.0**-20) * truth.abs() + 2.0**-24
    assert ((actual.double() - truth).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 3, 4, 15, 16, 17, 96, 577, 4096])
def test_the_definition(norm: Norm, size: int, dtype: torch.dtype) -> None:
    for rows in (1, 5):
        x, weight = problem(rows, size, dtype=dtype)
        check(norm(x, weight, 1e-6), x, weight, 1e-6)
        check(norm(3 * x[0], weight, 0.0), 3 * x[0], weight, 0.0)


def test_zeros_nothing_and_what_is_not_finite(norm: Norm) -> None:
    x, weight = problem(4, 20)
    assert norm(x[:0], weight, 1e-6).shape == (0, 20)
    assert torch.equal(norm(torch.zeros_like(x), weight, 1e-6), torch.zeros_like(x))
    clean = norm(x, weight, 1e-6)
    x[2, 7] = torch.nan
    dirty = norm(x, weight, 1e-6)
    assert torch.equal(dirty[[0, 1, 3]], clean[[0, 1, 3]])
    assert dirty[2].isnan().all()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_layout_equals_the_definition(data: st.DataObject) -> None:
    sizes = [*data.draw(st.lists(st.integers(0, 5), max_size=3)), data.draw(st.integers(1, 70))]
    x, weight = problem(*sizes, dtype=data.draw(st.sampled_from(DTYPES)))
    layout = data.draw(st.sampled_from(["plain", "wide", "transposed"]))
    if layout == "wide":  # rows with something between them
        room = torch.full((*sizes[:-1], sizes[-1] + 3), torch.nan, dtype=x.dtype)
        room[..., : sizes[-1]] = x
        x = room[..., : sizes[-1]]
    elif layout == "transposed":
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    for norm in (rms_norm, op_module._fallback):
        check(norm(x, weight, 1e-5), x, weight, 1e-5)


@needs_extension
def test_other_rows_and_threads_change_no_bit() -> None:
    x, weight = problem(900, 130)
    torch.set_num_threads(1)
    one = rms_norm(x, weight, 1e-6)
    assert torch.equal(rms_norm(x[77], weight, 1e-6), one[77])
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(rms_norm(x, weight, 1e-6), one)


X, WEIGHT = problem(2, 16)
CASES = [
    (([1.0], WEIGHT, 1e-6), TypeError, "x must be a torch.Tensor, got list"),
    ((X, None, 1e-6), TypeError, "weight must be a torch.Tensor, got NoneType"),
    ((X.double(), WEIGHT, 1e-6), TypeError, "x must be float32, bfloat16 or float16, got .*64"),
    ((X, WEIGHT.half(), 1e-6), TypeError, "weight must be torch.float32, as x, got torch.float16"),
    ((X, WEIGHT[None], 1e-6), ValueError, r"weight must be contiguous, of shape \[K\]"),
    ((X, WEIGHT.repeat(2)[::2], 1e-6), ValueError, r"weight must be contiguous, .* strides \[2\]"),
    ((X[:, :0], WEIGHT[:0], 1e-6), ValueError, r"weight must .* K >= 1, got \[0\]"),
    ((X[:, :9], WEIGHT, 1e-6), ValueError, r"x must have shape \[..., 16\] .*, got \[2, 9\]"),
    ((X.to_sparse(), WEIGHT, 1e-6), ValueError, "x must be a dense tensor"),
    ((X, WEIGHT.to("meta"), 1e-6), ValueError, "weight must be on the device of x, cpu, got meta"),
    ((X, WEIGHT, -1.0), ValueError, "epsilon must be at least 0, got -1.0"),
    ((X, WEIGHT, float("nan")), ValueError, "epsilon must be at least 0, got nan"),
    ((X, WEIGHT, "1"), TypeError, "epsilon must be a number, got str"),
    ((X.clone().requires_grad_(), WEIGHT, 1e-6), ValueError, "x must not require a gradient"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), CASES)
def test_bad_arguments(arguments: tuple, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        rms_norm(*arguments)
    if error is ValueError and "gradient" not in message:
        with pytest.raises((RuntimeError, ValueError)):  # past the wrapper, too
            torch.ops.steer_kernels.rms_norm(*arguments)


@needs_extension
def test_the_operator_is_well_made() -> None:
    op = torch.ops.steer_kernels.rms_norm.default
    torch.library.opcheck(op, (X, WEIGHT, 1e-6))
    out = rms_norm(X.to("meta"), WEIGHT.to("meta"), 1e-6)
    assert out.shape == X.shape
    assert out.device.type == "meta"
