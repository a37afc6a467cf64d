"""What sample_logits keeps, against the warpers of transformers; ties on every backend."""

from __future__ import annotations

import pytest
import torch
from support.backends import INF, random_logits
from support.samplers import CUTS, Sample, triton_sample
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from steer_kernels import reference


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_kept_sets_are_those_of_transformers(cuts: tuple) -> None:
    temperature, top_k, top_p, min_p = cuts
    chain = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        chain.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        chain.append(TopPLogitsWarper(top_p))
    if min_p:
        chain.append(MinPLogitsWarper(min_p))
    for seed in range(10):
        logits = random_logits(4, 500, seed=seed)
        warped = chain(None, logits)
        assert torch.equal(reference.kept(logits.double(), *cuts), warped > -INF)


def test_ties_of_the_kth_stay_and_ties_of_the_nucleus_go_by_column(sample: Sample) -> None:
    row = torch.zeros(40)
    row[[3, 9, 11, 30]] = 2.0
    many = 13 if sample is triton_sample else 101  # of four shares
    uniform = torch.linspace(0.001, 0.999, many)
    rows = row.expand(many, -1)
    kept = TopKLogitsWarper(2)(None, row[None]).isfinite().nonzero()[:, 1]
    assert sample(rows, uniform, top_k=2).token.unique().tolist() == kept.tolist()
    assert kept.tolist() == [3, 9, 11, 30]
    p = float(row.softmax(-1)[3])
    number = int(TopPLogitsWarper(2.5 * p)(None, row[None]).isfinite().sum())
    tokens = sample(rows, uniform, top_p=2.5 * p).token.unique().tolist()
    assert tokens == [3, 9, 11][:number]
