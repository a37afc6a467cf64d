"""logit_stats as an interface: derived figures, bad arguments, torch.library, torch.compile."""

from __future__ import annotations

import pytest
import torch
from support.backends import DTYPES, Run, assert_same_bits, needs_extension, random_logits
from torch import Tensor

import steer_kernels
from steer_kernels import logit_stats

# ---- properties ----------------------------------------------------------------------------


def test_properties_follow_from_the_fields(run: Run) -> None:
    logits = random_logits(4, 1200)
    stats = run(logits, 6)
    logprobs = torch.log_softmax(logits.double(), -1).gather(-1, stats.topk_ids)
    for actual, expected in (
        (stats.topk_logprobs, logprobs),
        (stats.max_prob, logprobs[:, 0].exp()),
        (stats.margin, logprobs[:, 0].exp() - logprobs[:, 1].exp()),
        (stats.logit_margin, logprobs[:, 0] - logprobs[:, 1]),
    ):
        torch.testing.assert_close(actual.double(), expected, atol=2e-6, rtol=2e-6)


def test_margins_need_two_logits(run: Run) -> None:
    stats = run(random_logits(2, 10), 1)
    assert stats.max_prob.shape == (2,)
    for name in ("margin", "logit_margin"):
        with pytest.raises(ValueError, match=rf"{name} needs .* k >= 2, got k=1"):
            getattr(stats, name)


# ---- arguments -----------------------------------------------------------------------------


GOOD = torch.zeros(2, 10)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0]],), TypeError, "logits must be a torch.Tensor, got list"),
        ((torch.zeros(10),), ValueError, r"logits must have shape \[B, V\], got \[10\]"),
        ((torch.zeros(1, 2, 10),), ValueError, r"got \[1, 2, 10\]"),
        ((GOOD.double(),), TypeError, "logits must be float32.*got torch.float64"),
        ((GOOD.long(),), TypeError, "got torch.int64"),
        ((GOOD.to_sparse(),), ValueError, "logits must be a dense tensor, got layout"),
        ((torch.zeros(2, 0),), ValueError, "logits must have at least one column"),
        ((torch.zeros(10, 2).t(),), ValueError, r"contiguous in the last.*strides \[1, 2\]"),
        ((GOOD[:, :1].expand(2, 10),), ValueError, r"strides \[10, 0\]"),
        ((GOOD, 0), ValueError, r"k must be in 1\.\.64, got 0"),
        ((GOOD, -3), ValueError, "got -3"),
        ((torch.zeros(1, 100), 65), ValueError, r"k must be in 1\.\.64, got 65"),
        ((GOOD, 11), ValueError, "k must be at most vocab_size=10, got 11"),
        ((GOOD, 6, 5), ValueError, "k must be at most vocab_size=5, got 6"),
        ((GOOD, 2.0), TypeError, r"k must be an int, got 2\.0"),
        ((GOOD, True), TypeError, "k must be an int, got True"),
        ((GOOD, 2, 0), ValueError, r"vocab_size must be in 1\.\.10 \(columns\), got 0"),
        ((GOOD, 2, 11), ValueError, "got 11"),
        ((GOOD, 2, "5"), TypeError, "vocab_size must be an int or None, got '5'"),
    ],
)
def test_bad_arguments_name_themselves(arguments: tuple, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        logit_stats(*arguments)


@needs_extension
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(10),), "logits must have shape"),
        ((GOOD.double(),), "logits must be float32, bfloat16 or float16, got .*Double"),
        ((torch.zeros(2, 0),), "at least one column"),
        ((torch.zeros(10, 2).t(),), "contiguous in its last dimension, got stride 2"),
        ((GOOD, 0), r"k must be in 1\.\.10, got 0"),
        ((GOOD, 11), r"k must be in 1\.\.10, got 11"),
        ((torch.zeros(1, 100), 65), r"k must be in 1\.\.64, got 65"),
        ((GOOD, 2, 0), r"vocab_size must be in 1\.\.10 \(columns of logits\), got 0"),
        ((GOOD, 2, 11), r"vocab_size must be in 1\.\.10 \(columns of logits\), got 11"),
    ],
)
def test_the_raw_operator_checks_too(arguments: tuple, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.steer_kernels.logit_stats(*arguments)


def test_no_gradient_flows() -> None:
    logits = random_logits(2, 50).requires_grad_()
    assert not any(field.requires_grad for field in logit_stats(logits))


@needs_extension
def test_an_unknown_instruction_set_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'avx9', which is not one of portable, avx2, avx512"):
        steer_kernels.set_cpu_isa("avx9")
    monkeypatch.setenv("STEER_CPU_ISA", "avx9")
    steer_kernels.set_cpu_isa(None)
    with pytest.raises((ValueError, RuntimeError), match="STEER_CPU_ISA is 'avx9'"):
        logit_stats(GOOD)
    monkeypatch.setenv("STEER_CPU_ISA", "portable")
    assert steer_kernels.cpu_isa() == "portable"
    monkeypatch.delenv("STEER_CPU_ISA")
    steer_kernels.set_cpu_isa(None)
    assert steer_kernels.cpu_isa() == steer_kernels.supported_cpu_isas()[-1]


# ---- torch.library and torch.compile -------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    op = torch.ops.steer_kernels.logit_stats.default
    for arguments in (
        (random_logits(3, 100, dtype),),
        (random_logits(1, 33, dtype), 5, 30),
        (torch.empty(0, 17, dtype=dtype), 1),
        (random_logits(4, 100, dtype)[1:, 3:90], 2, None),
    ):
        torch.library.opcheck(op, arguments)


def confidence(logits: Tensor, k: int) -> tuple[Tensor, ...]:
    stats = logit_stats(logits * 2.0, k=k, vocab_size=logits.shape[1] - 1)
    return stats.entropy, stats.max_prob, stats.margin, stats.logit_margin, stats.topk_ids


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_compiles_into_one_graph_with_any_shape(backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(confidence, fullgraph=True, backend=backend, dynamic=True)
    for rows, columns in ((2, 50), (3, 1200), (5, 60)):
        logits = random_logits(rows, columns)
        for actual, expected in zip(compiled(logits, 4), confidence(logits, 4), strict=True):
            torch.testing.assert_close(actual, expected)


def test_meta_tensors_have_the_right_shapes() -> None:
    stats = logit_stats(torch.empty(3, 50, device="meta", dtype=torch.bfloat16), 5)
    shapes = [tuple(field.shape) for field in stats]
    assert shapes == [(3,), (3,), (3,), (3, 5), (3, 5), (3,)]
    real = logit_stats(random_logits(3, 50), 5)
    assert [f.dtype for f in stats] == [f.dtype for f in real]


@pytest.mark.gpu
def test_cuda_graph_replay_and_streams() -> None:
    logits = random_logits(4, 5000).cuda()
    expected = logit_stats(logits)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        assert_same_bits(logit_stats(logits), expected)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = logit_stats(logits)
    for seed in (1, 2):
        logits.copy_(random_logits(4, 5000, seed=seed))
        graph.replay()
        assert_same_bits(captured, logit_stats(logits))
