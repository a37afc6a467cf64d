"""sample_logits_packed: one tensor that holds exactly what sample_logits returns."""

from __future__ import annotations

import pytest
import torch
from support.backends import DTYPES, INF, NAN, random_logits

from steer_kernels import Packed, sample_logits, sample_logits_packed, unpack
from steer_kernels.ops import sample_logits_packed as op_module

CUTS = [(0.0,), (1.0,), (0.7, 5), (1.0, 0, 0.9), (1.0, 0, 1.0, 0.05)]


@pytest.mark.parametrize("call", [sample_logits_packed, op_module._fallback])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_unpacked_it_is_what_sample_logits_returns(call, dtype: torch.dtype, cuts: tuple) -> None:
    logits = random_logits(5, 1000, dtype)
    logits[1] = NAN
    logits[2, 3:] = -INF
    logits[3, 7] = INF
    uniform = torch.rand(5, dtype=torch.float64)
    for rows, k, vocab_size in ((5, 8, None), (1, 1, 990), (0, 3, None)):
        arguments = (logits[:rows], uniform[:rows], *cuts)
        packed = call(*arguments, k=k, vocab_size=vocab_size)
        expected = sample_logits(*arguments, k=k, vocab_size=vocab_size)
        assert packed.shape == (rows, len(Packed) + 2 * k)
        for name, field in zip(expected._fields, unpack(packed), strict=True):
            wanted = getattr(expected, name)
            assert field.dtype == wanted.dtype, name
            assert torch.equal(field.nan_to_num(nan=1e9), wanted.nan_to_num(nan=1e9)), name


def test_columns_are_where_they_are_said_to_be() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0, 99.0]])
    row = sample_logits_packed(logits, torch.zeros(1), 0.0, k=2, vocab_size=3)[0]
    log_probs = logits[0, :3].double().log_softmax(0)
    assert row[Packed.TOKEN] == 1
    assert row[Packed.VALID] == 1
    assert row[Packed.MAX_LOGIT] == 4
    assert row[Packed.LSE].item() == pytest.approx(4 - log_probs[1].item())
    assert row[Packed.ENTROPY].item() == pytest.approx(-(log_probs.exp() * log_probs).sum().item())
    assert row[Packed.LOGPROB].item() == pytest.approx(log_probs[1].item())
    assert row[len(Packed) :].tolist() == [4, 2, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(3), torch.zeros(3)), ValueError, r"logits must have shape \[B, V\]"),
        ((torch.zeros(1, 9), torch.zeros(2)), ValueError, r"uniform must have shape \[B\] = \[1\]"),
        ((torch.zeros(1, 9), torch.zeros(1), -1.0), ValueError, "temperature must be"),
        ((torch.zeros(1, 9), torch.ones(1)), RuntimeError, r"uniform must lie in \[0, 1\)"),
        ((torch.zeros(1, 9), torch.zeros(1), 1.0, 2.5), TypeError, "top_k must be an int"),
    ],
)
def test_bad_arguments_name_themselves(arguments: tuple, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        sample_logits_packed(*arguments)


def test_opcheck_and_compile() -> None:
    op = torch.ops.steer_kernels.sample_logits_packed.default
    logits, uniform = random_logits(2, 100), torch.tensor([0.25, 0.75])
    torch.library.opcheck(op, (logits, uniform, 0.7, 5, 0.9, 0.01, 5, 90))
    compiled = torch.compile(
        lambda x, u: sample_logits_packed(x * 2.0, u, k=4), fullgraph=True, backend="aot_eager"
    )
    expected = sample_logits_packed(logits * 2.0, uniform, k=4)
    assert torch.equal(compiled(logits, uniform), expected)
