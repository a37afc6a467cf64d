"""The kernels of `steer_kernels.layers` as they are compiled, run as PTX on the CPU.

In bfloat16 and float16 they give the bits of transformers but for the norm's sum of squares.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import torch
from support.layer_problems import EPSILON, Heads, assert_near, gates, normed, product, sums
from support.selection import one_of_three

pytest.importorskip("triton")

from support.emulated import Device, Programs

from steer_kernels.triton import add_rms_norm as norm_module
from steer_kernels.triton import rope_append as rope_module
from steer_kernels.triton import silu_mul as silu_module
from steer_kernels.triton.add_rms_norm import add_rms_norm_triton
from steer_kernels.triton.rope_append import rope_append_triton
from steer_kernels.triton.silu_mul import silu_mul_triton

slow = pytest.mark.slow
TARGETS = [
    pytest.param(90, torch.bfloat16, id="sm_90-bf16"),
    pytest.param(80, torch.bfloat16, id="sm_80-bf16", marks=slow),
    pytest.param(90, torch.float32, id="sm_90-fp32", marks=slow),
    pytest.param(90, torch.float16, id="sm_90-fp16", marks=slow),
    pytest.param(80, torch.float16, id="sm_80-fp16", marks=pytest.mark.exhaustive),
    pytest.param(80, torch.float32, id="sm_80-fp32", marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize(("capability", "dtype"), TARGETS)
def test_a_sum_and_its_norm(made: Programs, capability: int, dtype: torch.dtype) -> None:
    device = Device(made, capability)
    for rows, size in ((3, 896), (2, 50)):
        x, residual, weight = sums(rows, size, dtype)
        with device.on():
            total, out = add_rms_norm_triton(x, residual, weight, EPSILON)
        assert torch.equal(total, residual + x)
        expected = normed(total, weight)
        assert_near(out, expected)
        assert dtype is torch.float32 or (out != expected).float().mean() < 0.01


@pytest.mark.parametrize(("capability", "dtype"), TARGETS)
def test_the_product_of_gate_and_rest(made: Programs, capability: int, dtype: torch.dtype) -> None:
    device = Device(made, capability)
    for rows, size in ((2, 1040), (1, 37)):
        gate, up = gates(rows, size, dtype)
        with device.on():
            out = silu_mul_triton(gate, up)
        assert_near(out, product(gate, up))
        assert dtype is torch.float32 or torch.equal(out, product(gate, up))


@pytest.mark.parametrize(("capability", "dtype"), TARGETS)
def test_heads_are_rotated_and_written(made: Programs, capability: int, dtype: torch.dtype) -> None:
    device = Device(made, capability)
    for size, values, norms in ((64, 64, False), (64, 64, True), (6, 5, False)):
        heads = Heads(dtype, size, values, norms)
        expected = heads.by_transformers()
        with device.on():
            out = rope_append_triton(*heads.arguments())
        for found, wanted in zip((out, *heads.caches), expected, strict=True):
            assert_near(found, wanted, 4.0)
        if not norms:
            assert torch.equal(out, expected[0])
            assert torch.equal(heads.caches[0].nan_to_num(9), expected[1].nan_to_num(9))


# ---- compiled code ---------------------------------------------------------------------------

SIZES = {"norm": (896, 16384), "silu": (4864, 18944), "rope": (64, 128)}


def compiled(made: Programs, kernel: str, size: int, dtype: str, capability: int) -> dict[str, Any]:
    """What is made of a launch with rows of `size` numbers."""
    array, folder = f"*{dtype}", "steer_kernels.triton."
    if kernel == "norm":
        pointers = ["x", "residual", "weight", "total_out", "normed_out"]
        types = {**dict.fromkeys(pointers, array), "epsilon": "fp32"}
        how, name = norm_module.launch(size), "add_rms_norm"
    elif kernel == "silu":
        pointers = ["gate", "up", "out"]
        types = dict.fromkeys(pointers, array)
        how, name = {"SIZE": size, **silu_module.LAUNCH}, "silu_mul"
    else:
        pointers = ["q", "k", "v", "cos", "sin", "q_weight", "k_weight", "q_out", "k_cache"]
        pointers += ["v_cache"]
        types = dict.fromkeys(pointers, array) | dict.fromkeys(("rows", "starts", "counts"), "*i64")
        numbers = ["tokens", "heads", "groups", "cache_rows", "capacity", "angles_batch"]
        numbers += ["rows_stride", "starts_stride", "counts_stride"]
        types |= {**dict.fromkeys(numbers, "i32"), "epsilon": "fp32"}
        how, name = {**rope_module.launch(size, size), "NORMS": True}, "rope_append"
    options = {key: how.pop(key) for key in ("num_warps", "enable_fp_fusion")}
    return made.compile(
        folder + name, f"{name}_kernel", types, how, pointers, options, capability, True
    )


def _gate_cases() -> list:
    cases = []
    for a, capability in enumerate((80, 90, 100)):
        for b, dtype in enumerate(("bf16", "fp16", "fp32")):
            for c, kernel in enumerate(SIZES):
                marks = () if (capability, dtype) == (90, "bf16") else one_of_three(a, b, c)
                name = f"sm_{capability}-{dtype}-{kernel}"
                cases.append(pytest.param(kernel, dtype, capability, marks=marks, id=name))
    return cases


@pytest.mark.skipif(sys.platform != "linux", reason="Triton carries its CUDA tools on Linux")
@pytest.mark.parametrize(("kernel", "dtype", "capability"), _gate_cases())
@pytest.mark.few(1)
def test_compiled_code(
    made: Programs,
    kernel: str,
    dtype: str,
    capability: int,
    record_property: pytest.RecordProperty,
) -> None:
    """No spills, few registers, wide accesses, and no shared memory but for a sum of warps."""
    for size in SIZES[kernel]:
        found = compiled(made, kernel, size, dtype, capability)
        for name in ("registers", "stack"):
            record_property(f"{name}-{size}", found[name])
        assert found["stack"] == 0, found
        assert not re.search(r"\b(?:STL|LDL)\b", found["sass"])
        assert found["registers"] <= 80, (size, found["registers"])
        assert found["shared"] <= (64 if kernel == "norm" else 0)
        if kernel != "rope":  # whose heads are one warp's, so that a thread has two numbers or four
            assert not re.search(r"(ld|st)\.global\.[bu](16|32)\b", found["ptx"])
