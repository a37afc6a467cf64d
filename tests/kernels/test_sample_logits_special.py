"""sample_logits on every backend: masks, NaN, infinities, extreme temperatures, and any case.

Any uniform gives a token in range.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.backends import DTYPES, INF, NAN, random_logits
from support.samplers import CUTS, Sample, as_near_as_sums_tell, middles, probabilities

from steer_kernels import SampledLogits, reference


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.spread(4, ci=16)
def test_tokens_are_in_range_and_never_masked(
    sample: Sample, cuts: tuple, dtype: torch.dtype
) -> None:
    nearly_one = torch.tensor([0.0, 1e-45, 0.5, 1 - 2**-24, 0.25, 0.75])
    for columns, vocab in ((100, 97), (5000, 4099)):
        logits = random_logits(2, columns, dtype)
        logits[:, ::3] = -INF
        logits[:, vocab - 3 : vocab] = -INF
        logits[:, vocab:] = 100.0
        for i in range(3):
            out = sample(logits, nearly_one[2 * i : 2 * i + 2], *cuts, vocab_size=vocab)
            assert (out.token < vocab).all()
            assert (out.token >= 0).all()
            assert logits.gather(1, out.token[:, None]).isfinite().all()
            assert out.logprob.isfinite().all()


@pytest.mark.parametrize("cuts", [*CUTS, (0.0, 0, 1.0, 0.0)], ids=str)
@pytest.mark.spread(3, ci=12)
def test_invalid_rows_and_infinities(sample: Sample, cuts: tuple) -> None:
    logits = random_logits(5, 300)
    logits[0, 100] = NAN
    logits[1] = -INF
    logits[2, 250] = INF
    logits[3, [10, 20]] = INF
    uniform = torch.tensor([0.3, 0.3, 0.3, 0.9, 0.3])
    out = sample(logits, uniform, *cuts)
    assert out.valid.tolist() == [False, False, True, True, True]
    assert out.token[:3].tolist() == [0, 0, 250]
    assert out.logprob[:2].isnan().all()
    assert out.logprob[2] == 0
    alone = sample(logits[4:], uniform[4:], *cuts)
    assert out.token[4] == alone.token[0]
    assert out.logprob[4] == alone.logprob[0]
    one_kept = cuts[1] == 1 or cuts[2] < 0.5 or cuts[0] == 0  # a tie with the first of top_k stays
    if not one_kept or cuts[1] == 1:
        assert out.token[3] == 20
        torch.testing.assert_close(out.logprob[3], torch.tensor(0.5).log())


@pytest.mark.few(1)
@pytest.mark.parametrize("min_p", [1e-3, 1.0])
def test_more_infinities_than_a_list_holds_whatever_its_values(
    sample: Sample, min_p: float
) -> None:
    logits = random_logits(1, 200).expand(12, -1).clone()
    infinite = torch.arange(3, 200, 17)
    logits[:, infinite] = INF
    uniform = (torch.arange(12) + 0.5) / 12
    out = sample(logits, uniform, 0.5, min_p=min_p, k=4)
    assert torch.equal(out.token, infinite)
    torch.testing.assert_close(out.logprob, torch.full((12,), -math.log(12)))


@pytest.mark.parametrize(("temperature", "min_p"), [(1.0, 0.1), (1.5, 0.003), (0.7, 1e-5)])
def test_min_p_keeps_what_it_does_among_large_logits(
    sample: Sample, temperature: float, min_p: float
) -> None:
    """The spacing of float32 at 1e4 is 1e-3: the edge of what is kept must not move by it."""
    row = random_logits(1, 900)[0] + 1e4
    cuts = (temperature, 0, 1.0, min_p)
    tokens, uniform = middles(probabilities(row, cuts), 1e-3)
    out = sample(row.expand(len(tokens), -1)[:9], uniform[:9], *cuts, k=2)
    assert torch.equal(out.token, tokens[:9])


def test_extreme_temperatures(sample: Sample) -> None:
    logits = random_logits(2, 400)
    uniform = torch.tensor([0.1, 0.9])
    cold = sample(logits, uniform, 1e-30)
    assert torch.equal(cold.token, cold.topk_ids[:, 0])
    uniform_of_tokens = torch.tensor([100.5, 300.5]) / 400
    for heat in (1e30, 1e37, 1e300):
        assert sample(logits, uniform_of_tokens, heat).token.tolist() == [100, 300]
    for tiny in (5e-324, 1e-40):
        assert torch.equal(sample(logits, uniform, tiny).token, cold.token)


@pytest.mark.parametrize("temperature", [1e30, 1e37, 1e300])
@pytest.mark.parametrize(
    "cuts", [{}, {"top_p": 0.5}, {"min_p": 0.5}, {"top_k": 4099, "top_p": 1e-9}], ids=str
)
@pytest.mark.spread(3, ci=12)
def test_heat_gives_no_weight_to_masked_columns(
    sample: Sample, temperature: float, cuts: dict
) -> None:
    logits = torch.full((1, 4100), -6e4)
    logits[:, ::2] = -INF
    out = sample(logits, torch.tensor([0.9]), temperature, **cuts)
    assert logits[0, out.token[0]] == -6e4
    assert out.logprob.isfinite().all()


def test_min_p_keeps_all_that_a_high_temperature_makes_equal(sample: Sample) -> None:
    logits = random_logits(1, 300) * 1e30
    out = sample(logits, torch.tensor([250.5 / 300]), 1e36, min_p=0.9)
    assert int(out.token) == 250


SPECIAL = st.sampled_from([0.0, -0.0, INF, -INF, NAN, 1.0, -1e4, 88.0, -88.0])


any_arguments = given(
    shape=st.tuples(st.integers(0, 4), st.integers(1, 300)),
    layout=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 2)),
    masks=st.lists(st.tuples(SPECIAL, st.sampled_from([0.01, 0.3, 0.99])), max_size=3),
    cuts=st.tuples(
        st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        st.sampled_from([0, 1, 7, 64, 65, 100, 1000]),
        st.sampled_from([1.0, 0.999, 0.9, 0.3]),
        st.sampled_from([0.0, 0.001, 0.2, 1.0]),
    ),
    seed=st.integers(0, 1000),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@any_arguments
@example(
    shape=(4, 181),
    layout=(1, 0, 0),
    masks=[(0.0, 0.01), (-INF, 0.99), (0.0, 0.3)],
    cuts=(0.5, 0, 0.3, 0.0),
    seed=270,
)
@example(
    shape=(4, 181),
    layout=(1, 0, 0),
    masks=[(0.0, 0.01), (0.0, 0.99)],
    cuts=(0.5, 0, 0.9, 0.0),
    seed=270,
)
def test_any_case(sample: Sample, shape, layout, masks, cuts, seed) -> None:
    check_any_case(sample, shape, layout, masks, cuts, seed)


@pytest.mark.slow
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@any_arguments
@pytest.mark.parametrize("sample", ["triton"], indirect=True)
def test_a_few_cases_when_interpreted(sample: Sample, shape, layout, masks, cuts, seed) -> None:
    check_any_case(sample, shape, layout, masks, cuts, seed)


def check_any_case(sample: Sample, shape, layout, masks, cuts, seed) -> None:
    (rows, columns), (padding, offset, dtype) = shape, layout
    generator = torch.Generator().manual_seed(seed)
    buffer = torch.randn(offset + rows * (columns + padding) + 1, generator=generator) * 3
    for value, share in masks:
        buffer[torch.rand(buffer.shape, generator=generator) < share] = value
    buffer = buffer.to(DTYPES[dtype])
    logits = buffer.as_strided((rows, columns), (columns + padding, 1), offset)
    uniform = torch.rand(rows, generator=generator, dtype=torch.float64)
    k = min(4, columns)
    out = sample(logits, uniform, *cuts, k=k)
    truths = [
        (near, SampledLogits(*reference.sample_logits(logits, uniform, *near, k=k)))
        for near in as_near_as_sums_tell(cuts)
    ]
    assert torch.equal(out.valid, truths[0][1].valid)
    for row in range(rows):
        if not out.valid[row]:
            assert out.token[row] == 0
            assert out.logprob[row].isnan()
            continue
        faults = [fault(out, truth, row, logits, uniform, near) for near, truth in truths]
        assert "" in faults, faults


def fault(out: SampledLogits, truth: SampledLogits, row: int, logits, uniform, cuts) -> str:
    """In what a row is not as the reference has it; the token may differ at the edge of a share."""
    if out.token[row] == truth.token[row]:
        found, wanted = float(out.logprob[row]), float(truth.logprob[row])
        near = math.isclose(found, wanted, rel_tol=4e-6, abs_tol=4e-6)
        return "" if near else f"log-probability {found} for {wanted}"
    share = probabilities(logits[row], cuts).cumsum(-1)
    away = float((share - uniform[row]).abs().min())
    return "" if away < 2e-6 else f"token {out.token[row]}, {away} away from a share's edge"
