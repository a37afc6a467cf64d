"""The Triton kernels as they are compiled, run as PTX on the CPU against the float64 definitions.

The package's own host code launches them, so grids, arguments and scratch memory are under test
too. Bounds, alignment, races and the order between blocks are checked as they run (support.ptx).
"""

from __future__ import annotations

import pytest
import torch
from support.backends import check
from support.layer_problems import EPSILON, Heads
from torch import Tensor

pytest.importorskip("triton")

from support.emulated import Device, Programs, kernels

from steer_kernels import LogitStats, reference
from steer_kernels.ops._sampling import Cuts
from steer_kernels.triton.accept_drafts import accept_drafts_triton
from steer_kernels.triton.add_rms_norm import add_rms_norm_triton
from steer_kernels.triton.heuristics import TILE
from steer_kernels.triton.logit_stats import logit_stats_triton
from steer_kernels.triton.rope_append import rope_append_triton
from steer_kernels.triton.sample_logits import sample_logits_triton
from steer_kernels.triton.silu_mul import silu_mul_triton

INF, NAN = torch.inf, torch.nan
V = 2 * TILE + 77
PLAIN, GREEDY = (0.7, 0, 1.0, 0.0), (0.0, 0, 1.0, 0.0)
LISTED = (1.0, 0, 0.5, 0.0)  # the list decides
SEARCHED = (3.0, 100, 0.9, 0.02)  # it does not: the second launch draws
FULL = 151936
slow = pytest.mark.slow


def rows(
    dtype: torch.dtype, vocab: int = V, offset: int = 0, scale: float = 4.0, seed: int = 0
) -> Tensor:
    """Two rows of logits in a buffer of NaN that ends where the last of them ends."""
    generator = torch.Generator().manual_seed(seed)
    stride = vocab + 3
    buffer = torch.full((offset + stride + vocab,), NAN, dtype=dtype)
    view = buffer.as_strided((2, vocab), (stride, 1), offset)
    return view.copy_((torch.randn(2, vocab, generator=generator) * scale).to(dtype))


TARGETS = [
    pytest.param(90, torch.bfloat16, id="sm_90-bf16"),
    pytest.param(90, torch.float32, id="sm_90-fp32", marks=slow),
    pytest.param(80, torch.bfloat16, id="sm_80-bf16", marks=slow),
    pytest.param(90, torch.float16, id="sm_90-fp16", marks=pytest.mark.exhaustive),
    pytest.param(80, torch.float32, id="sm_80-fp32", marks=pytest.mark.exhaustive),
]


# ---- logit_stats ---------------------------------------------------------------------------------


def stats(device: Device, logits: Tensor, k: int = 20, vocab: int | None = None) -> LogitStats:
    with device.on():
        out = LogitStats(*logit_stats_triton(logits, k, vocab or logits.shape[1]))
    assert all(device.written(field) for field in out)
    return out


@pytest.mark.parametrize(("capability", "dtype"), TARGETS)
def test_logit_stats(made: Programs, capability: int, dtype: torch.dtype) -> None:
    """Rows on and off 16 bytes, one program a row or several; padding is NaN."""
    for offset, splits, seed in ((0, 1, 0), (3, 2, 1), (5, 3, 2)):
        logits = rows(dtype, offset=offset)
        check(stats(Device(made, capability, splits, seed), logits), logits, 20)


def test_logit_stats_of_rows_that_are_not_valid(made: Programs) -> None:
    logits = torch.randn(7, 300).bfloat16()
    logits[0, 299], logits[1], logits[2, 7], logits[3, ::2] = NAN, -INF, INF, -INF
    logits[4], logits[5, :290] = 1.5, -INF
    check(stats(Device(made), logits, vocab=290), logits, 20, vocab_size=290)


def test_infinity_beside_the_largest_number(made: Programs) -> None:
    logits = torch.full((2, 300), torch.finfo(torch.bfloat16).max, dtype=torch.bfloat16)
    logits[0, 7], logits[1, [3, 200]] = INF, INF
    found = stats(Device(made), logits)
    check(found, logits, 20)
    torch.testing.assert_close(found.entropy, torch.tensor([1.0, 2.0]).log())


@slow
def test_logit_stats_of_a_whole_vocabulary(made: Programs) -> None:
    logits = rows(torch.bfloat16, FULL)[1:]
    check(stats(Device(made, splits=75), logits), logits, 20)


# ---- sample_logits -------------------------------------------------------------------------------


def assert_sampled(
    made: Programs, logits: Tensor, cuts: tuple, launches: int, capability: int = 90,
    splits: int = 2,
) -> None:  # fmt: skip
    uniform = torch.tensor([0.3, 0.81], dtype=torch.float64)[: logits.shape[0]]
    device = Device(made, capability, splits)
    with device.on():
        out = sample_logits_triton(logits, uniform, Cuts(*cuts), 20, logits.shape[1])
    truth = reference.sample_logits(logits, uniform, *cuts, k=20)
    check(LogitStats(*out[:6]), logits, 20)
    assert torch.equal(out[6], truth[6])
    torch.testing.assert_close(out[7], truth[7], atol=2e-6, rtol=2e-6)
    assert all(device.written(field) for field in out)
    assert len(device.launched) == launches


@pytest.mark.parametrize(
    ("cuts", "launches"),
    [pytest.param(PLAIN, 1, id="plain"), pytest.param(GREEDY, 1, id="greedy"),
     pytest.param(LISTED, 2, id="listed"), pytest.param(SEARCHED, 2, id="searched")],
)  # fmt: skip
@pytest.mark.parametrize(("capability", "dtype"), TARGETS)
def test_sample_logits(
    made: Programs, capability: int, dtype: torch.dtype, cuts: tuple, launches: int
) -> None:
    assert_sampled(made, rows(dtype, offset=1), cuts, launches, capability)


@slow
@pytest.mark.parametrize("cuts", [PLAIN, SEARCHED], ids=["plain", "searched"])
def test_sample_logits_of_a_whole_vocabulary(made: Programs, cuts: tuple) -> None:
    launches = 1 if cuts == PLAIN else 2
    assert_sampled(made, rows(torch.bfloat16, FULL)[1:], cuts, launches, splits=25)


@pytest.mark.parametrize("seed", range(3))
def test_a_number_close_to_one_draws_a_token_with_a_weight(made: Programs, seed: int) -> None:
    """Sums that rounding leaves short of the target take the last column that has a weight."""
    logits = rows(torch.bfloat16, 300, seed=seed)
    logits[:, 290:] = -INF
    uniform = torch.full((2,), 1 - 2.0**-53, dtype=torch.float64)
    with Device(made).on():
        out = sample_logits_triton(logits, uniform, Cuts(*PLAIN), 20, 300)
    assert (out[6] < 290).all()
    assert out[7].isfinite().all()


# ---- accept_drafts -------------------------------------------------------------------------------


def assert_accepted(
    made: Programs, vocab: int, cuts: tuple, capability: int = 90, splits: int = 2
) -> list[str]:
    """One row whose draft stands and one whose draft is refused; returns what was launched."""
    large, small = rows(torch.bfloat16, vocab), rows(torch.bfloat16, vocab, seed=1, scale=2)
    better = large.float() - small.float()
    drafts = torch.stack([large[0].argmax(), better[1].argmin()])
    uniform = torch.tensor([0.01, 0.97], dtype=torch.float64)
    device = Device(made, capability, splits)
    with device.on():
        out = accept_drafts_triton(large, drafts, uniform, small, Cuts(*cuts), 20, vocab)
    truth = reference.accept_drafts(large, drafts, uniform, small, *cuts, k=20, vocab_size=vocab)
    assert out[:, -1].tolist() == [1, 0]
    torch.testing.assert_close(out, truth.double(), atol=4e-6, rtol=2e-6, equal_nan=True)
    assert torch.equal(out[:, 0], truth[:, 0].double())
    return [launch.name for launch in device.launched]


@pytest.mark.parametrize("capability", [90, pytest.param(80, marks=slow)])
@pytest.mark.parametrize("cuts", [PLAIN, SEARCHED], ids=["plain", "searched"])
def test_accept_drafts(made: Programs, capability: int, cuts: tuple) -> None:
    names = assert_accepted(made, V, cuts, capability)
    assert {"bounds_kernel", "verdict_kernel", "redraw_kernel"} <= set(names)


@slow
def test_accept_drafts_of_a_whole_vocabulary(made: Programs) -> None:
    assert_accepted(made, FULL, PLAIN, splits=25)


# ---- all of them ---------------------------------------------------------------------------------


def test_every_triton_kernel_is_run_here(made: Programs) -> None:
    """A new kernel belongs into this file."""
    device = Device(made)
    with device.on():
        logits = rows(torch.bfloat16, 300)
        uniform = torch.tensor([0.3, 0.81], dtype=torch.float64)
        logit_stats_triton(logits, 20, 300)
        accept_drafts_triton(logits, torch.tensor([1, 2]), uniform, logits, Cuts(*LISTED), 20, 300)
        # Those of layers are in test_ptx_layers.py.
        add_rms_norm_triton(logits, logits, logits[0], EPSILON)
        silu_mul_triton(logits, logits)
        rope_append_triton(*Heads(torch.bfloat16).arguments())
    assert {launch.name for launch in device.launched} == kernels().keys()
