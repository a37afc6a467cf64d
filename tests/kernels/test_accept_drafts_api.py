"""accept_drafts as an interface: bad arguments, torch.library, torch.compile, determinism."""

from __future__ import annotations

import pytest
import torch
from support.backends import DTYPES, INF, NAN, interpreter_fault, needs_extension, random_logits
from torch import Tensor

from steer_kernels import Packed, PackedDraft, accept_drafts
from steer_kernels.ops import accept_drafts as op_module

GOOD = torch.zeros(2, 10)
D = torch.tensor([3, -1])
U = torch.tensor([0.25, 0.75])

BAD: list[tuple] = [
    (([[1.0]], D, U), {}, TypeError, "logits must be a torch.Tensor, got list"),
    ((torch.zeros(10), D, U), {}, ValueError, r"logits must have shape \[B, V\]"),
    ((GOOD.double(), D, U), {}, TypeError, "logits must be float32.*float64"),
    ((GOOD, D, U), {"k": 11}, ValueError, "k must be at most vocab_size=10, got 11"),
    ((GOOD, D, 0.5), {}, TypeError, "uniform must be a torch.Tensor, got float"),
    ((GOOD, D, U[:1]), {}, ValueError, r"uniform must have shape \[B\] = \[2\], got \[1\]"),
    ((GOOD, D, U), {"temperature": -0.5}, ValueError, r"temperature must be 0 \(greedy\).*-0\.5"),
    ((GOOD, D, U), {"top_p": 0.0}, ValueError, r"top_p must lie in \(0, 1\], got 0\.0"),
    ((GOOD, D, U), {"min_p": True}, TypeError, "min_p must be a number, got True"),
    ((GOOD, [3, -1], U), {}, TypeError, "drafts must be a torch.Tensor, got list"),
    ((GOOD, D.int(), U), {}, TypeError, "drafts must be int64, got torch.int32"),
    ((GOOD, D.double(), U), {}, TypeError, "drafts must be int64, got torch.float64"),
    ((GOOD, D[:1], U), {}, ValueError, r"drafts must have shape \[B\] = \[2\], got \[1\]"),
    ((GOOD, D[:, None], U), {}, ValueError, r"drafts must have shape .*got \[2, 1\]"),
    ((GOOD, D.to("meta"), U), {}, ValueError, "drafts must be on the device of the logits, cpu"),
    ((GOOD, D, U, [[1.0]]), {}, TypeError, "draft_logits must be a torch.Tensor, got list"),
    ((GOOD, D, U, GOOD[0]), {}, ValueError, r"draft_logits must have shape \[B, V\], got \[10\]"),
    ((GOOD, D, U, GOOD[:1]), {}, ValueError, r"draft_logits must have a row for each of the 2"),
    ((GOOD, D, U, GOOD.long()), {}, TypeError, "draft_logits must be float32.*got torch.int64"),
    (
        (GOOD, D, U, torch.zeros(10, 2).t()),
        {},
        ValueError,
        "draft_logits must be contiguous in the last",
    ),
    ((GOOD, D, U, GOOD.to("meta")), {}, ValueError, "draft_logits must be on the device of the lo"),
    (
        (GOOD, D, U, GOOD[:, :9]),
        {},
        ValueError,
        r"draft_logits must have at least vocab_size=10 columns, got shape \[2, 9\]; pass the",
    ),
    (
        (GOOD, D, U, GOOD[:, :8]),
        {"vocab_size": 9},
        ValueError,
        "draft_logits must have at least vocab_size=9",
    ),
]


@pytest.mark.parametrize(("arguments", "keywords", "error", "message"), BAD)
def test_bad_arguments_name_themselves(
    arguments: tuple, keywords: dict, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        accept_drafts(*arguments, **keywords)


def _raw_cases() -> list[tuple]:
    def here(values: tuple) -> bool:
        return all(isinstance(value, Tensor) and value.is_cpu for value in values)

    return [(a, k, m) for a, k, _error, m in BAD if here(a) and "True" not in m]


@needs_extension
@pytest.mark.parametrize(("arguments", "keywords", "message"), _raw_cases())
def test_the_raw_operator_checks_too(arguments: tuple, keywords: dict, message: str) -> None:
    with pytest.raises(RuntimeError, match=message.split(" ")[0]):
        torch.ops.steer_kernels.accept_drafts(*arguments, **keywords)


@pytest.mark.parametrize("op", [accept_drafts, op_module._fallback])
def test_values_outside_their_range(op) -> None:
    for value in (1.0, -0.001, NAN, INF):
        with pytest.raises(RuntimeError, match=r"uniform must lie in \[0, 1\), got .* in row 1"):
            op(GOOD, D, torch.tensor([0.5, value]))
    for draft in (10, -2, 2**62, -(2**63)):
        message = rf"drafts must be -1 .*in 0\.\.9 \(vocab_size is 10\), got {draft} in row 1"
        with pytest.raises(RuntimeError, match=message):
            op(GOOD, torch.tensor([3, draft]), U)
    with pytest.raises(RuntimeError, match=r"in 0\.\.4 \(vocab_size is 5\), got 5 in row 0"):
        op(GOOD, torch.tensor([5, 1]), U, k=1, vocab_size=5)


@pytest.mark.few(1)
@pytest.mark.parametrize("cuts", [(1.0,), (0.0,), (0.8, 3)], ids=str)
def test_values_outside_their_range_on_a_device(cuts: tuple) -> None:
    """There the host does not look; the row is marked. Interpreted where there is no GPU."""
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and (fault := interpreter_fault()):
        pytest.skip(fault)
    _check_marks(device, cuts)


@pytest.mark.parametrize("cuts", [(1.0,), (0.0,), (0.8, 3)], ids=str)
def test_values_outside_their_range_on_a_device_without_triton(
    monkeypatch: pytest.MonkeyPatch, cuts: tuple
) -> None:
    monkeypatch.setattr(op_module._logits, "triton_kernel", lambda name: None)
    _check_marks("cpu", cuts)


def _check_marks(device: str, cuts: tuple) -> None:
    uniform = torch.tensor([0.5, NAN, 1.0, 0.5, 0.5, 0.5], device=device)
    drafts = torch.tensor([4, 4, -1, 10, -2, 2**62], device=device)
    logits = -torch.arange(10.0, device=device).expand(6, -1)
    logits = logits.where(logits != -4, 9.0)
    out = op_module._cuda(logits, drafts, uniform, logits.flip(1), *cuts, k=1)
    assert out[:, Packed.TOKEN].tolist() == [4, 0, 0, 0, 0, 0]
    assert out[:, PackedDraft.ACCEPTED].tolist() == [1, 0, 0, 0, 0, 0]
    assert out[:, Packed.LOGPROB].isnan().tolist() == [False, *[True] * 5]
    assert out[:, PackedDraft.DRAFT_LOGPROB].isnan().tolist() == [False, *[True] * 5]
    assert (out[:, Packed.VALID] == 1).all()


def test_no_rows() -> None:
    for draft_logits in (None, torch.empty(0, 12)):
        empty = torch.empty(0, dtype=torch.int64)
        out = accept_drafts(torch.empty(0, 10), empty, torch.empty(0), draft_logits, k=3)
        assert out.shape == (0, len(Packed) + 6 + len(PackedDraft))
        assert out.dtype == torch.float64


def test_no_gradient_flows() -> None:
    logits, small = random_logits(2, 50), random_logits(2, 50, seed=1)
    plain = accept_drafts(logits, D, U, small)
    for leaf in (logits, small):
        leaf.requires_grad_()
        out = accept_drafts(logits, D, U, small)
        assert not out.requires_grad
        assert torch.equal(out.nan_to_num(), plain.nan_to_num())


@needs_extension
def test_threads_and_batch_change_nothing() -> None:
    large, small = random_logits(6, 40_001, torch.bfloat16), random_logits(6, 40_100, seed=1)
    uniform, drafts = torch.rand(6), torch.tensor([4, 40_000, -1, 7, 7, 20_000])
    for cuts in ((1.0,), (0.7,), (2.0, 0, 0.95), (1.0, 100, 1.0, 0.01)):
        torch.set_num_threads(1)
        options = {"vocab_size": 40_001}
        first = accept_drafts(large, drafts, uniform, small, *cuts, **options).nan_to_num(nan=9e9)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            other = accept_drafts(large, drafts, uniform, small, *cuts, **options)
            assert torch.equal(first, other.nan_to_num(nan=9e9))
        for row in range(6):
            one = slice(row, row + 1)
            alone = accept_drafts(
                large[one], drafts[one], uniform[one], small[one], *cuts, **options
            )
            assert torch.equal(first[one], alone.nan_to_num(nan=9e9))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.few(1)
def test_opcheck(dtype: torch.dtype) -> None:
    op = torch.ops.steer_kernels.accept_drafts.default
    large, small = random_logits(2, 100, dtype), random_logits(2, 120, seed=1)
    none, drafts = torch.empty(0, dtype=torch.int64), torch.tensor([3, 5])  # -1 gives a NaN
    for arguments in (
        (large, drafts, U),
        (large, drafts, U.double(), small, 0.7, 5, 0.9, 0.01, 5, 90),
        (torch.empty(0, 17, dtype=dtype), none, torch.empty(0), torch.empty(0, 17), 1.0),
    ):
        torch.library.opcheck(op, arguments)


def step(logits: Tensor, drafts: Tensor, uniform: Tensor, small: Tensor) -> tuple[Tensor, ...]:
    out = accept_drafts(logits * 2.0, drafts, uniform, small, temperature=0.8, top_k=30, k=4)
    return out[:, Packed.TOKEN].long(), out[:, PackedDraft.ACCEPTED] > 0


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_compiles_into_one_graph_with_any_shape(backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=backend, dynamic=True)
    for rows, columns in ((2, 50), (3, 1200), (5, 60)):
        large, small = random_logits(rows, columns), random_logits(rows, columns, seed=1)
        arguments = (large, torch.randint(-1, columns, (rows,)), torch.rand(rows), small)
        for actual, expected in zip(compiled(*arguments), step(*arguments), strict=True):
            assert torch.equal(actual, expected)


def test_meta_tensors_have_the_right_shapes() -> None:
    shape = {"device": "meta"}
    none = torch.empty(3, dtype=torch.int64, **shape)
    out = accept_drafts(torch.empty(3, 50, **shape), none, torch.empty(3, **shape), k=5)
    real = accept_drafts(random_logits(3, 50), torch.tensor([1, 2, 3]), torch.rand(3), k=5)
    assert (out.shape, out.dtype, out.device.type) == (real.shape, real.dtype, "meta")
