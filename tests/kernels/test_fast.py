"""steer_kernels.fast: bit for bit what the operators give, in tensors that the caller keeps."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.backends import DTYPES, INF, NAN, assert_same_bits, needs_extension, random_logits
from torch import Tensor

import steer_kernels
from steer_kernels import LogitStats, fast, logit_stats, sample_logits
from steer_kernels.fast import empty_sampled, empty_stats, logit_stats_, sample_logits_

pytestmark = needs_extension
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["native", "operators"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the native part, and as where it was not built."""
    if request.param == "operators":
        monkeypatch.setattr(fast, "_native", None)
    elif not fast.native():
        pytest.skip("the native part is not built")
    return request.param


def offset_rows() -> Tensor:
    """Rows at an odd stride and storage offset, with columns beyond the vocabulary."""
    return random_logits(9, 1003)[1:, 3:].as_strided((4, 997), (2006, 1), 1010)


def masked() -> Tensor:
    logits = random_logits(7, 5000)
    logits[0, 7:] = -INF
    logits[1] = -INF
    logits[2, 4999] = NAN
    logits[3, 11] = INF
    logits[4] = 2.5
    logits[5] += 1e4
    return logits


CASES: dict[str, Callable[[], Tensor]] = {
    "no rows": lambda: torch.empty(0, 100),
    "one column": lambda: torch.tensor([[0.5], [-INF], [NAN]]),
    "a tile and a bit": lambda: random_logits(3, 4097),
    "offset": offset_rows,
    "masked": masked,
    "one long row": lambda: random_logits(1, 151_936),
    "expanded": lambda: random_logits(1, 300).expand(5, 300),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_same_bits_as_the_operators(way: str, case: str, dtype: torch.dtype) -> None:
    logits = CASES[case]()
    if not logits.stride(0):  # stays expanded
        logits = logits[:1].to(dtype).expand_as(logits)
    elif dtype != torch.float32:
        logits = logits.to(dtype)
    rows, columns = logits.shape
    vocab = max(1, columns - 3)
    out = empty_stats(rows, k := min(8, vocab))
    assert logit_stats_(logits, out, vocab) is out
    assert_same_bits(out, logit_stats(logits, k, vocab))

    uniform = torch.rand(rows, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sampled = empty_sampled(rows, k)
    for cuts in ({}, {"temperature": 0.0}, {"temperature": 0.6}, {"top_k": 5}, {"min_p": 0.1}):
        assert sample_logits_(logits, uniform, sampled, **cuts, vocab_size=vocab) is sampled
        expected = sample_logits(logits, uniform, **cuts, k=k, vocab_size=vocab)
        assert_same_bits(sampled.stats, expected.stats)
        assert torch.equal(sampled.token, expected.token)
        assert sampled.logprob.numpy().tobytes() == expected.logprob.numpy().tobytes()


@pytest.mark.parametrize("isa", steer_kernels.supported_cpu_isas())
def test_the_instruction_set_is_followed(isa: str) -> None:
    if not fast.native():
        pytest.skip("the native part is not built")
    steer_kernels.set_cpu_isa(isa)
    try:
        assert fast._native.cpu_isa() == isa
        logits = random_logits(2, 9000)
        assert_same_bits(logit_stats_(logits, empty_stats(2)), logit_stats(logits))
    finally:
        steer_kernels.set_cpu_isa(None)


@pytest.mark.slow
def test_a_choice_made_before_the_import_holds() -> None:
    code = """
import steer_kernels
steer_kernels.set_cpu_isa("portable")
from steer_kernels import fast
assert not fast.native() or fast._native.cpu_isa() == "portable"
assert (steer_kernels.build_info()["fast"] is not None) == fast.native()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_call_writes_over_the_last_one() -> None:
    out = empty_stats(2, 3)
    for seed in range(3):
        logits = random_logits(2, 50, seed=seed)
        assert_same_bits(logit_stats_(logits, out), logit_stats(logits, 3))


def test_a_leaf_that_wants_gradients_is_read_as_it_is() -> None:
    logits = random_logits(2, 50).requires_grad_()
    out = logit_stats_(logits, empty_stats(2))
    assert not any(field.requires_grad for field in out)
    assert_same_bits(out, logit_stats(logits))


GOOD = torch.zeros(2, 10)


def with_field(name: str, value: object) -> LogitStats:
    return empty_stats(2, 4)._replace(**{name: value})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0]], empty_stats(1, 1)), TypeError, "logits must be a torch.Tensor"),
        ((torch.zeros(10), empty_stats(1, 4)), ValueError, r"logits must have shape \[B, V\]"),
        ((GOOD.double(), empty_stats(2, 4)), TypeError, "logits must be float32, bfloat16 or"),
        ((torch.zeros(2, 0), empty_stats(2, 4)), ValueError, "logits must have at least one col"),
        ((torch.zeros(10, 2).t(), empty_stats(2, 4)), ValueError, "logits must be contiguous in"),
        ((GOOD, empty_stats(2, 4), 11), ValueError, r"vocab_size must be in 1\.\.10 .*got 11"),
        ((GOOD, empty_stats(2, 4), 2**70), ValueError, r"vocab_size must be in 1\.\.10 .*got 1180"),
        ((GOOD, empty_stats(2, 4), True), TypeError, "vocab_size must be an int or None, got True"),
        ((GOOD, empty_stats(2, 12)), ValueError, r"k.* must be .*10, got 12"),
        ((GOOD, None), TypeError, "out must be a LogitStats, got NoneType"),
        ((GOOD, empty_sampled(2, 4)), TypeError, "out must be a LogitStats, got SampledLogits"),
        ((GOOD, empty_stats(3, 4)), ValueError, r"out.max_logit must have shape \[2\], got \[3\]"),
        (
            (GOOD, with_field("lse", torch.empty(2, dtype=torch.float64))),
            TypeError,
            "out.lse has the wrong dtype",
        ),
        (
            (GOOD, with_field("valid", torch.empty(2, dtype=torch.uint8))),
            TypeError,
            "out.valid has the wrong dtype",
        ),
        (
            (GOOD, with_field("topk_logits", torch.empty(2, 3))),
            ValueError,
            r"out.topk_logits must have shape \[2, 4\], got \[2, 3\]",
        ),
    ],
)
def test_bad_arguments_name_themselves(
    way: str, arguments: tuple, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        logit_stats_(*arguments)


def test_tensors_without_memory_are_refused() -> None:
    if not fast.native():
        pytest.skip("the operator has a meta kernel")
    zeros = torch._efficientzerotensor((2, 10))
    for logits in (GOOD.to("meta"), GOOD.to_sparse(), zeros):
        with pytest.raises(ValueError, match=r"logits (cannot be|must be on|has no)") as raised:
            logit_stats_(logits, empty_stats(2, 4))
        assert "\n" not in str(raised.value)  # torch's trace of frames is left out
    with pytest.raises(ValueError, match=r"out\.lse has no memory"):
        logit_stats_(GOOD, with_field("lse", zeros[:, 0]))


def test_outputs_that_are_not_contiguous_are_refused_and_left_alone() -> None:
    if not fast.native():
        pytest.skip("copy_ takes any stride")
    wide = torch.full((2, 8), 7.0)
    out = empty_stats(2, 4)._replace(topk_logits=wide[:, ::2])
    out.max_logit.fill_(5.0)
    with pytest.raises(ValueError, match=r"out.topk_logits must be contiguous, got stride"):
        logit_stats_(GOOD, out)
    assert bool((wide == 7).all())
    assert bool((out.max_logit == 5).all())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"temperature": -1.0}, ValueError, "temperature must be 0"),
        ({"temperature": NAN}, ValueError, "temperature must be 0"),
        ({"top_k": -1}, ValueError, "top_k must be 0 .* got -1"),
        ({"top_p": 0.0}, ValueError, r"top_p must lie in \(0, 1\]"),
        ({"min_p": 1.5}, ValueError, r"min_p must lie in \[0, 1\]"),
        ({"uniform": torch.zeros(3)}, ValueError, r"uniform must have shape \[B\] = \[2\], got"),
        ({"uniform": torch.zeros(2).long()}, TypeError, "uniform must be float32 or float64"),
        ({"uniform": torch.tensor([0.5, 1.0])}, RuntimeError, r"uniform must lie in \[0, 1\)"),
        ({"out": empty_stats(2)}, TypeError, "out must be a SampledLogits, got LogitStats"),
        ({"temperature": "1"}, TypeError, "temperature must be a number, got '1'"),
        ({"temperature": 10**400}, ValueError, "temperature must be 0 .greedy. or a positive"),
        ({"top_k": 2**63}, ValueError, "top_k must be below 2.63, got 9223372036854775808"),
        ({"vocab_size": 2**70}, ValueError, r"vocab_size must be in 1\.\.10 .columns., got 1180"),
    ],
)
def test_bad_arguments_of_sampling(way: str, change: dict, error: type, message: str) -> None:
    arguments = {"logits": GOOD, "uniform": torch.zeros(2), "out": empty_sampled(2)} | change
    with pytest.raises(error, match=message):
        sample_logits_(**arguments)


def test_outputs_are_what_they_are_whatever_torch_defaults_to() -> None:
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        out = empty_sampled(2)
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(None)
    assert all(field.is_cpu for field in out)
    assert out.lse.dtype == out.logprob.dtype == out.topk_logits.dtype == torch.float32


def test_sizes_of_outputs_are_checked() -> None:
    with pytest.raises(ValueError, match="rows must not be negative, got -1"):
        empty_stats(-1)
    with pytest.raises(ValueError, match=r"k must be in 1\.\.64, got 65"):
        empty_stats(1, 65)
