"""The kernels of `steer_kernels.layers`, interpreted.

bfloat16 is not among what is interpreted, for the interpreter cuts it off where the machine rounds;
the compiled code, executed, has all three (test_ptx_layers.py).
"""

from __future__ import annotations

import pytest
import torch
from support.layer_problems import EPSILON, Heads, assert_near, gates, normed, product, sums

pytest.importorskip("triton")

from steer_kernels import layers, reference
from steer_kernels.triton import add_rms_norm as norm_module
from steer_kernels.triton import rope_append as rope_module
from steer_kernels.triton import silu_mul as silu_module

DTYPES = [torch.float32, torch.float16]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# ---- what they compute -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sum_and_its_norm(dtype: torch.dtype) -> None:
    for rows, size in ((3, 896), (1, 33), (2, 4100)):
        x, residual, weight = (t.to(DEVICE) for t in sums(rows, size, dtype))
        total, out = norm_module.add_rms_norm_triton(x, residual, weight, EPSILON)
        assert torch.equal(total, residual + x)
        assert_near(out, normed(residual + x, weight))
        assert_near(out, reference.add_rms_norm(x, residual, weight, EPSILON)[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_has_the_same_norm_beside_any_others(dtype: torch.dtype) -> None:
    x, residual, weight = (t.to(DEVICE) for t in sums(4, 200, dtype))
    _, together = norm_module.add_rms_norm_triton(x, residual, weight, EPSILON)
    x[2] = torch.nan
    _, dirty = norm_module.add_rms_norm_triton(x, residual, weight, EPSILON)
    assert torch.equal(dirty[[0, 1, 3]], together[[0, 1, 3]])
    assert dirty[2].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_product_of_gate_and_rest(dtype: torch.dtype) -> None:
    for rows, size in ((2, 1030), (1, 7)):
        gate, up = (t.to(DEVICE) for t in gates(rows, size, dtype))
        out = silu_module.silu_mul_triton(gate, up)
        assert_near(out, product(gate, up))
        assert_near(out, reference.silu_mul(gate, up))


@pytest.mark.parametrize("norms", [False, True], ids=["plain", "normed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_heads_are_rotated_and_written(dtype: torch.dtype, norms: bool) -> None:
    heads = Heads(dtype, norms=norms)
    expected = heads.by_transformers()
    out = rope_module.rope_append_triton(*heads.arguments())
    for found, wanted in zip((out, *heads.caches), expected, strict=True):
        assert_near(found, wanted, 4.0)
    if not norms:
        assert torch.equal(out, expected[0])
    defined = Heads(dtype, norms=norms)
    assert_near(out, reference.rope_append_(*defined.arguments()), 4.0)
    assert_near(heads.caches[0], defined.caches[0], 4.0)
    assert torch.equal(heads.caches[1].nan_to_num(9), defined.caches[1].nan_to_num(9))


def test_what_does_not_fit_is_left_out_whole() -> None:
    """As by `kv_append_` on CUDA: the indices are on the device. Its queries are rotated still."""
    heads = Heads(torch.float32)
    heads.rows, heads.starts = torch.tensor([5, -1, 2]), torch.tensor([0, 0, 8])
    heads.counts = torch.tensor([2, 1, 2])
    out = rope_module.rope_append_triton(*heads.arguments())
    assert all(cache.isnan().all() for cache in heads.caches)
    heads.counts.zero_()
    assert torch.equal(out, heads.by_transformers()[0])


def test_one_set_of_angles_serves_all_rows() -> None:
    each, shared = Heads(torch.float32), Heads(torch.float32)
    shared.cos, shared.sin = shared.cos[1:2], shared.sin[1:2]
    each.cos, each.sin = shared.cos.repeat(3, 1, 1), shared.sin.repeat(3, 1, 1)
    found = [rope_module.rope_append_triton(*heads.arguments()) for heads in (each, shared)]
    assert torch.equal(*found)
    assert torch.equal(each.caches[0].nan_to_num(9), shared.caches[0].nan_to_num(9))


def test_indices_of_any_stride() -> None:
    """Rows that are alike have one number, expanded."""
    heads, alike = Heads(torch.float32), Heads(torch.float32)
    heads.starts, heads.counts = torch.tensor([4, 4, 4]), torch.tensor([2, 2, 2])
    alike.rows = torch.stack([alike.rows, alike.rows + 1], -1)[:, 0]
    alike.starts, alike.counts = torch.tensor([4]).expand(3), torch.tensor([2]).expand(3)
    found = [rope_module.rope_append_triton(*h.arguments()) for h in (heads, alike)]
    assert torch.equal(*found)
    assert torch.equal(heads.caches[0].nan_to_num(9), alike.caches[0].nan_to_num(9))
    assert torch.equal(heads.caches[0].nan_to_num(9), heads.by_transformers()[1].nan_to_num(9))


def test_nothing_is_nothing() -> None:
    x, residual, weight = sums(3, 32, torch.float32)
    assert norm_module.add_rms_norm_triton(x[:0], residual[:0], weight, EPSILON)[1].shape == (0, 32)
    assert silu_module.silu_mul_triton(x[:0], residual[:0]).shape == (0, 32)


def test_other_devices_have_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "triton_kernel", None)  # which would launch
    x, residual, weight = sums(3, 32, torch.float32)
    total, out = layers.add_rms_norm(x, residual, weight, EPSILON)
    assert torch.equal(total, residual + x)
    assert_near(out, normed(total, weight))
    assert_near(layers.silu_mul(x, residual), product(x, residual))
    heads = Heads(torch.float32, norms=True)
    expected = heads.by_transformers()
    version = heads.caches[0]._version
    out = layers.rope_append_(*heads.arguments())
    assert heads.caches[0]._version > version
    for found, wanted in zip((out, *heads.caches), expected, strict=True):
        assert_near(found, wanted, 4.0)
