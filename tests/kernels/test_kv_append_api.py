"""kv_append_ as an interface: bad arguments, torch.library, torch.compile, streams and graphs."""

from __future__ import annotations

import pytest
import torch
from support.append_problems import COUNTS, ROWS, STARTS, bits, index, problem
from support.backends import needs_extension
from torch import Tensor

from steer_kernels import kv_append_

NAMES = ("k_cache", "v_cache", "k", "v", "rows", "starts", "counts")


def bad(**changes: object) -> list:
    return [changes.get(name, old) for name, old in zip(NAMES, problem(), strict=True)]


K_CACHE, _, K, V, *_ = problem()
STRIDED = torch.zeros(5, 2, 9, 32)[..., ::2]
CASES = [
    (bad(k=[1.0]), TypeError, "k must be a torch.Tensor, got list"),
    (bad(k_cache=None), TypeError, "k_cache must be a torch.Tensor, got NoneType"),
    (bad(k_cache=K_CACHE[0]), ValueError, r"k_cache must have shape \[R, H, C, D\], got \[2, 9"),
    (bad(v=V[0]), ValueError, r"v must have shape \[B, H, N, D\], got \[2, 4, 24\]"),
    (bad(k=K.half()), TypeError, "k must have the dtype of k_cache, torch.float32, got .*float16"),
    (bad(v=V.long()), TypeError, "v must have the dtype of v_cache, torch.float32, got .*int64"),
    (bad(k=K[:, :1]), ValueError, r"k must have the heads .* 2 and 16, got shape \[3, 1, 4, 16\]"),
    (bad(v=V[..., :16]), ValueError, r"v must have .* head size .* 24, got shape \[3, 2, 4, 16\]"),
    (bad(v=V[:, :, :3]), ValueError, r"v must have the shape of k .* got \[3, 2, 3, 24\]"),
    (bad(v_cache=torch.zeros(5, 2, 8, 24)), ValueError, r"v_cache must have the shape of k_cache"),
    (bad(k_cache=STRIDED), ValueError, r"k_cache must be contiguous in the last .*32, 2\]"),
    (bad(k=torch.zeros(3, 2, 4, 32)[..., ::2]), ValueError, "k must be contiguous in the last"),
    (bad(k_cache=K_CACHE[:1].expand(5, -1, -1, -1)), ValueError, "k_cache must have memory of its"),
    (bad(k_cache=K_CACHE.to_sparse()), ValueError, "k_cache must be a dense tensor"),
    (bad(k_cache=torch.zeros(5, 2, 9, 16, requires_grad=True)), ValueError, "not require a grad"),
    (bad(rows=ROWS.int()), TypeError, "rows must be int64, got torch.int32"),
    (bad(starts=STARTS.double()), TypeError, "starts must be int64, got torch.float64"),
    (bad(counts=COUNTS[:2]), ValueError, r"counts must have shape \[3\] .batch of k., got \[2\]"),
    (bad(rows=ROWS[None]), ValueError, r"rows must have shape \[3\] .batch of k., got \[1, 3\]"),
    (bad(k=K.to("meta")), ValueError, "k must be on the device of k_cache, cpu, got meta"),
    (bad(rows=ROWS.to("meta")), ValueError, "rows must be on the device of k_cache"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), CASES)
def test_bad_arguments_name_themselves(arguments: list, error: type, message: str) -> None:
    before = [
        bits(t).clone()
        if isinstance(t, Tensor) and t.is_cpu and t.layout == torch.strided
        else None
        for t in arguments
    ]
    with pytest.raises(error, match=message):
        kv_append_(*arguments)
    for tensor, old in zip(arguments, before, strict=True):
        if old is not None:
            assert torch.equal(bits(tensor), old)


@needs_extension
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (bad(k_cache=K_CACHE[0]), r"k_cache must have shape \[rows, heads, .* got 3 dimension"),
        (bad(k=K.half()), "k must have the dtype of k_cache, Float, got Half"),
        (bad(k=K[:, :1]), "k must have the size of k_cache in dimension 1, 2, got 1"),
        (bad(v=V[..., :16]), "v must have the size of v_cache in dimension 3, 24, got 16"),
        (bad(v=V[:, :, :3]), "v must have the size of k in dimension 2, 4, got 3"),
        (bad(v_cache=torch.zeros(5, 2, 8, 24)), "v_cache must have the size of k_cache in dim.* 2"),
        (bad(k_cache=STRIDED), "k_cache must be contiguous in its last dimension, got stride 2"),
        (bad(k_cache=K_CACHE[:1].expand(5, -1, -1, -1)), "k_cache must have memory of its own"),
        (bad(rows=ROWS.int()), "rows must be Long, got Int"),
        (bad(counts=COUNTS[:2]), r"counts must have shape \[3\], got 1 dim.* and 2 element"),
    ],
)
def test_the_raw_operator_checks_too(arguments: list, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.steer_kernels.kv_append_(*arguments)


def test_empty_everything() -> None:
    none = torch.empty(0, dtype=torch.int64)
    cache = torch.zeros(2, 1, 3, 4)
    kv_append_(cache, cache.clone(), torch.empty(0, 1, 2, 4), torch.empty(0, 1, 2, 4), *[none] * 3)
    kv_append_(cache, cache.clone(), *[torch.empty(1, 1, 0, 4)] * 2, *[index(0)] * 3)
    empty = torch.empty(1, 1, 3, 0)
    kv_append_(empty, empty.clone(), *[torch.empty(1, 1, 2, 0)] * 2, index(0), index(1), index(2))
    assert not cache.any()


# ---- torch.library and torch.compile --------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.few(1)
def test_opcheck(dtype: torch.dtype) -> None:
    op = torch.ops.steer_kernels.kv_append_.default
    arguments = [
        tensor.nan_to_num() if tensor.is_floating_point() else tensor for tensor in problem(dtype)
    ]
    torch.library.opcheck(op, arguments)
    arguments[2] = arguments[2].transpose(1, 2).contiguous().transpose(1, 2)
    torch.library.opcheck(op, arguments)


def decode(cache: Tensor, other: Tensor, x: Tensor, rows: Tensor, starts: Tensor) -> Tensor:
    """Computes before the write and reads the cache after it."""
    k, v = x * 2.0, x + 1.0
    counts = torch.full_like(rows, x.shape[2])
    kv_append_(cache, other, k, v, rows, starts, counts)
    return cache.sum((1, 2, 3)) + other.amax((1, 2, 3))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_compiles_into_one_graph_and_still_mutates(backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(decode, fullgraph=True, backend=backend, dynamic=True)
    for batch, new in ((2, 1), (3, 4), (1, 2)):
        x = torch.randn(batch, 2, new, 8)
        rows, starts = torch.arange(batch), torch.arange(batch)
        ours, theirs = ([torch.randn(4, 2, 9, 8), torch.randn(4, 2, 9, 8)] for _ in range(2))
        for a, b in zip(ours, theirs, strict=True):
            b.copy_(a)
        result = compiled(*ours, x, rows, starts)
        torch.testing.assert_close(result, decode(*theirs, x, rows, starts))
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


def test_meta_tensors_are_checked_and_that_is_all() -> None:
    kv_append_(*[tensor.to("meta") for tensor in problem()])
    with pytest.raises(TypeError, match="rows must be int64"):
        kv_append_(*[tensor.to("meta") for tensor in bad(rows=ROWS.int())])


# ---- with a GPU -----------------------------------------------------------------------------


@pytest.mark.gpu
def test_graph_replay_and_a_side_stream() -> None:
    arguments = [tensor.nan_to_num().cuda() for tensor in problem()]
    kv_append_(*arguments)
    expected = [tensor.clone() for tensor in arguments[:2]]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        kv_append_(*arguments)
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(arguments, expected, strict=False))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kv_append_(*arguments)
    for start in (0, 3):  # the index tensors are read at replay, not at capture
        arguments[5].fill_(start)
        graph.replay()
        now = [tensor.clone() for tensor in arguments[:2]]
        kv_append_(*arguments)
        assert all(torch.equal(a, b) for a, b in zip(arguments, now, strict=False))
        assert torch.equal(arguments[0][3, :, start : start + 4], arguments[2][0])
