"""decode_attention as an interface: bad arguments, torch.library, torch.compile."""

from __future__ import annotations

import math

import pytest
import torch
from support.attention_problems import index, problem
from support.backends import needs_extension
from torch import Tensor

from steer_kernels import decode_attention
from steer_kernels.ops import decode_attention as op_module

NAMES = ("query", "keys", "values", "starts", "scale", "window")
QUERY, KEYS, VALUES = problem(2, (6, 2), 1, 40, (16, 24))
STARTS = index(39, 4)


def bad(**changes: object) -> list:
    good = (QUERY, KEYS, VALUES, STARTS, None, None)
    return [changes.get(name, old) for name, old in zip(NAMES, good, strict=True)]


CASES = [
    (bad(query=[1.0]), TypeError, "query must be a torch.Tensor, got list"),
    (bad(starts=3), TypeError, "starts must be a torch.Tensor, got int"),
    (bad(query=QUERY.double()), TypeError, "query must be float32, bfloat16 or float16, got .*64"),
    (bad(keys=KEYS.half()), TypeError, "keys must be torch.float32, as query, got torch.float16"),
    (bad(values=VALUES.long()), TypeError, "values must be torch.float32, as query, got .*int64"),
    (bad(query=QUERY[0]), ValueError, r"query must have shape \[B, H, N, D\], got \[6, 1, 16\]"),
    (bad(keys=KEYS[0]), ValueError, r"keys must have shape \[B, Hkv, S, D\], got \[2, 40, 16\]"),
    (bad(keys=KEYS[:1]), ValueError, r"keys must have the batch .* 2 and 16, got shape \[1, 2"),
    (bad(keys=KEYS[..., :8]), ValueError, r"keys must have .* head size .*, got .*40, 8\]"),
    (bad(values=VALUES[:, :, :9]), ValueError, r"values must have the shape of keys .*9, 24\]"),
    (bad(values=VALUES[..., :0]), ValueError, "values must have a head size of at least 1"),
    (bad(query=QUERY[:, :5]), ValueError, "query must have a multiple of the 2 heads .* got 5"),
    (bad(keys=torch.zeros(2, 2, 40, 32)[..., ::2]), ValueError, "keys must be contiguous in the"),
    (bad(keys=KEYS.to_sparse()), ValueError, "keys must be a dense tensor"),
    (bad(keys=KEYS.to("meta")), ValueError, "keys must be on the device of query, cpu, got meta"),
    (bad(starts=STARTS.int()), TypeError, "starts must be int64, got torch.int32"),
    (bad(starts=index(1)), ValueError, r"starts must have shape \[2\] .batch of query., got \[1\]"),
    (bad(starts=index(3, -1)), ValueError, r"starts\[1\] is -1"),
    (bad(starts=index(2**63 - 1, 0)), ValueError, r"starts\[0\] is 9223372036854775807"),
    (bad(scale=math.inf), ValueError, "scale must be a finite number in float32, got inf"),
    (bad(scale=1e300), ValueError, r"scale must be a finite number in float32, got 1e\+300"),
    (bad(scale=10**400), ValueError, "scale must be a finite number in float32, got 1000"),
    (bad(window=2**70), ValueError, "window must be below 2.63, got 1180"),
    (bad(scale="1"), TypeError, "scale must be a number or None, got '1'"),
    (bad(window=0), ValueError, "window must be at least 1, got 0"),
    (bad(window=1.5), TypeError, "window must be an int or None, got 1.5"),
    (bad(query=QUERY.clone().requires_grad_()), ValueError, "query must not require a gradient"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), CASES)
def test_bad_arguments_name_themselves(arguments: list, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        decode_attention(*arguments)
    if isinstance(arguments[0], Tensor) and not arguments[0].requires_grad:
        with pytest.raises((error, AttributeError), match=message):
            op_module._fallback(*arguments)


@needs_extension
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (bad(query=QUERY[0]), r"query must have shape \[batch, heads, .*, got 3 dimension"),
        (bad(query=QUERY.double()), "query must be Float, BFloat16 or Half, got Double"),
        (bad(keys=KEYS.half()), "keys must have the dtype of query, Float, got Half"),
        (bad(keys=KEYS[:1]), "keys must have the size of query in dimension 0, 2, got 1"),
        (bad(keys=KEYS[..., :8]), "keys must have the size of query in dimension 3, 16, got 8"),
        (bad(values=VALUES[:, :1]), "values must have the size of keys in dimension 1, 2, got 1"),
        (bad(values=VALUES[:, :, :9]), "values must have the size of keys in dimension 2, 40"),
        (bad(values=VALUES[..., :0]), "values must have a head size of at least 1"),
        (bad(query=QUERY[:, :5]), "query must have a multiple of the key heads, 2, got 5"),
        (bad(keys=torch.zeros(2, 2, 40, 32)[..., ::2]), "keys must be contiguous in its last"),
        (bad(starts=STARTS.int()), "starts must be Long, got Int"),
        (bad(starts=index(1)), r"starts must have shape \[2\], got 1 dim.* and 1 element"),
        (bad(scale=math.nan), "scale must be a finite number, got nan"),
        (bad(window=0), "window must be at least 1, got 0"),
    ],
)
def test_the_raw_operator_checks_too(arguments: list, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.steer_kernels.decode_attention(*arguments)


def test_no_gradient_is_asked_for_under_no_grad() -> None:
    with torch.no_grad():
        out = decode_attention(QUERY.clone().requires_grad_(), KEYS, VALUES, STARTS)
    assert torch.equal(out, decode_attention(QUERY, KEYS, VALUES, STARTS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.few(1)
def test_opcheck(dtype: torch.dtype) -> None:
    op = torch.ops.steer_kernels.decode_attention.default
    query, keys, values = problem(2, (6, 2), 2, 40, (16, 24), dtype)
    torch.library.opcheck(op, (query, keys, values, index(38, 4)))
    strided = query.transpose(1, 2).contiguous().transpose(1, 2)
    torch.library.opcheck(op, (strided, keys[:, :, :30], values[:, :, :30], index(20, 4), 0.5, 9))


def step(query: Tensor, keys: Tensor, values: Tensor, starts: Tensor) -> Tensor:
    """Computes before and behind the operator."""
    return decode_attention(query * 2.0, keys, values, starts + 1, 0.3, 50).flatten(2) + 1.0


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_compiles_into_one_graph(backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=backend, dynamic=True)
    with torch.no_grad():
        for batch, width in ((2, 40), (3, 70), (1, 300)):
            tensors = problem(batch, (6, 2), 1, width)
            starts = torch.arange(batch) + width - 5
            torch.testing.assert_close(compiled(*tensors, starts), step(*tensors, starts))


def test_meta_tensors_are_checked_and_that_is_all() -> None:
    tensors = [tensor.to("meta") for tensor in (QUERY, KEYS, VALUES, STARTS)]
    out = decode_attention(*tensors)
    assert out.shape == (2, 1, 6, 24)
    assert out.device.type == "meta"
    with pytest.raises(TypeError, match="starts must be int64"):
        decode_attention(*tensors[:3], tensors[3].int())


@pytest.mark.gpu
def test_on_cuda_the_way_out_is_named() -> None:
    tensors = [tensor.cuda() for tensor in (QUERY, KEYS, VALUES, STARTS)]
    with pytest.raises(ValueError, match=r"query must be on the CPU.*scaled_dot_product_attention"):
        decode_attention(*tensors)
