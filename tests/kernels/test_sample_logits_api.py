"""sample_logits as an interface: bad arguments, torch.library, torch.compile, determinism."""

from __future__ import annotations

import pytest
import torch
from support.backends import DTYPES, INF, NAN, interpreter_fault, needs_extension, random_logits
from torch import Tensor

from steer_kernels import sample_logits
from steer_kernels.ops import sample_logits as op_module

GOOD = torch.zeros(2, 10)
U = torch.tensor([0.25, 0.75])

# What logit_stats checks, checked through sample_logits; and what only sample_logits checks.
BAD: list[tuple] = [
    (([[1.0]], U), {}, TypeError, "logits must be a torch.Tensor, got list"),
    ((torch.zeros(10), U), {}, ValueError, r"logits must have shape \[B, V\]"),
    ((GOOD.double(), U), {}, TypeError, "logits must be float32.*float64"),
    ((torch.zeros(10, 2).t(), U), {}, ValueError, "contiguous in the last"),
    ((GOOD, U), {"k": 11}, ValueError, "k must be at most vocab_size=10, got 11"),
    ((GOOD, U), {"vocab_size": 11, "k": 1}, ValueError, r"vocab_size must be in 1\.\.10"),
    ((GOOD, 0.5), {}, TypeError, "uniform must be a torch.Tensor, got float"),
    ((GOOD, U.half()), {}, TypeError, "uniform must be float32 or float64, got torch.float16"),
    ((GOOD, U.long()), {}, TypeError, "got torch.int64"),
    ((GOOD, U[:1]), {}, ValueError, r"uniform must have shape \[B\] = \[2\], got \[1\]"),
    ((GOOD, U[:, None]), {}, ValueError, r"got \[2, 1\]"),
    ((GOOD, U.to("meta")), {}, ValueError, "on the device of the logits, cpu, got meta"),
    ((GOOD, U), {"temperature": -0.5}, ValueError, r"temperature must be 0 \(greedy\).*-0\.5"),
    ((GOOD, U), {"temperature": INF}, ValueError, "temperature must be .*got inf"),
    ((GOOD, U), {"temperature": NAN}, ValueError, "temperature must be .*got nan"),
    ((GOOD, U), {"temperature": 10**400}, ValueError, r"temperature must be 0 \(greedy\)"),
    ((GOOD, U), {"top_k": 2**63}, ValueError, "top_k must be below 2.63, got 92233720368"),
    ((GOOD, U), {"temperature": "hot"}, TypeError, "temperature must be a number, got 'hot'"),
    ((GOOD, U), {"top_k": -1}, ValueError, r"top_k must be 0 \(all\) or positive, got -1"),
    ((GOOD, U), {"top_k": 2.0}, TypeError, r"top_k must be an int, got 2\.0"),
    ((GOOD, U), {"top_p": 0.0}, ValueError, r"top_p must lie in \(0, 1\], got 0\.0"),
    ((GOOD, U), {"top_p": 1.5}, ValueError, r"got 1\.5"),
    ((GOOD, U), {"top_p": NAN}, ValueError, "top_p must lie .*got nan"),
    ((GOOD, U), {"min_p": -0.1}, ValueError, r"min_p must lie in \[0, 1\], got -0\.1"),
    ((GOOD, U), {"min_p": 1.1}, ValueError, r"got 1\.1"),
    ((GOOD, U), {"min_p": True}, TypeError, "min_p must be a number, got True"),
]
OUTSIDE = [1.0, -0.001, NAN, INF]


@pytest.mark.parametrize(("arguments", "keywords", "error", "message"), BAD)
def test_bad_arguments_name_themselves(
    arguments: tuple, keywords: dict, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        sample_logits(*arguments, **keywords)


@needs_extension
@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [(a, k, m) for a, k, error, m in BAD if error is ValueError and a[1].device.type == "cpu"],
)
def test_the_raw_operator_checks_too(arguments: tuple, keywords: dict, message: str) -> None:
    with pytest.raises(RuntimeError, match=message.split(" ")[0]):
        torch.ops.steer_kernels.sample_logits(*arguments, **keywords)


@pytest.mark.parametrize("value", OUTSIDE)
@pytest.mark.parametrize("op", [sample_logits, op_module._fallback])
def test_uniform_outside_its_range(op, value: float) -> None:
    with pytest.raises(RuntimeError, match=r"uniform must lie in \[0, 1\), got .* in row 1"):
        op(GOOD, torch.tensor([0.5, value]))


@pytest.mark.parametrize("value", OUTSIDE)
def test_uniform_outside_its_range_on_a_device(value: float) -> None:
    """There the host does not look; the row is marked. Interpreted where there is no GPU."""
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and (fault := interpreter_fault()):
        pytest.skip(fault)
    uniform = torch.tensor([0.5, value], device=device)
    out = op_module._cuda(GOOD.to(device), uniform)
    assert out[6].tolist() == [5, 0]
    assert out[7].isnan().tolist() == [False, True]


def test_uniform_of_any_stride_and_no_gradient() -> None:
    logits = random_logits(3, 50)
    uniform = torch.rand(6, dtype=torch.float64)[::2]
    out = sample_logits(logits.requires_grad_(), uniform)
    with_gradient = sample_logits(logits.detach(), uniform.clone().requires_grad_())
    assert not any(field.requires_grad for field in with_gradient)
    assert torch.equal(with_gradient.token, out.token)
    again = sample_logits(logits, uniform.contiguous())
    assert torch.equal(out.token, again.token)
    assert not any(field.requires_grad for field in out)


@needs_extension
def test_threads_and_batch_change_nothing() -> None:
    logits = random_logits(5, 40_001, torch.bfloat16)
    uniform = torch.rand(5)
    for cuts in ((1.0,), (0.7,), (2.0, 0, 0.95), (1.0, 100, 1.0, 0.01)):
        torch.set_num_threads(1)
        first = sample_logits(logits, uniform, *cuts)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            other = sample_logits(logits, uniform, *cuts)
            assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
        for row in range(5):
            part = slice(row, row + 1)
            alone = sample_logits(logits[part], uniform[part], *cuts)
            assert all(torch.equal(a[part], b) for a, b in zip(first, alone, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    op = torch.ops.steer_kernels.sample_logits.default
    for arguments in (
        (random_logits(2, 100, dtype), U),
        (random_logits(2, 33, dtype), U.double(), 0.7, 5, 0.9, 0.01, 5, 30),
        (torch.empty(0, 17, dtype=dtype), torch.empty(0), 0.0),
    ):
        torch.library.opcheck(op, arguments)


def step(logits: Tensor, uniform: Tensor) -> tuple[Tensor, ...]:
    out = sample_logits(logits * 2.0, uniform, temperature=0.8, top_k=30, k=4)
    return out.token, out.logprob, out.stats.max_prob


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_into_one_graph_with_any_shape(backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=backend, dynamic=True)
    for rows, columns in ((2, 50), (3, 1200), (5, 60)):
        logits, uniform = random_logits(rows, columns), torch.rand(rows)
        pairs = zip(compiled(logits, uniform), step(logits, uniform), strict=True)
        for actual, expected in pairs:
            torch.testing.assert_close(actual, expected)


def test_meta_tensors_have_the_right_shapes() -> None:
    out = sample_logits(torch.empty(3, 50, device="meta"), torch.empty(3, device="meta"), k=5)
    real = sample_logits(random_logits(3, 50), torch.rand(3), k=5)
    assert [(f.shape, f.dtype) for f in out] == [(f.shape, f.dtype) for f in real]
