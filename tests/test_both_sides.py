"""The router that looks on both sides of a step: what is read, what stays, what it costs."""

from __future__ import annotations

import statistics

import pytest
import torch
from steer_decode import BothSides, FirstTokenEntropy, Router, SpecReason, SteerError, parse_policy
from tiny import make_pair, prompt_text

PAIR = make_pair("llama", 0)
PROMPTS = [prompt_text(i, 4 + i) for i in range(6)]


def written(policy) -> list:  # type: ignore[no-untyped-def]
    outputs = Router(PAIR, policy).cohort(PROMPTS, max_new_tokens=60)
    return [(s.writer, s.token_ids, s.discarded) for o in outputs for s in o.trace.steps]


def test_with_every_draft_read_it_is_spec_reason() -> None:
    assert written(BothSides(sure=1.0, keep=-3.0, lost=0.0)) == written(SpecReason(-3.0))


def test_where_every_draft_stays_it_is_the_first_token_router() -> None:
    assert written(BothSides(sure=0.3, lost=0.3)) != written(BothSides(sure=0.0, lost=0.0))
    first = FirstTokenEntropy(0.3, "margin")
    ours = BothSides(sure=0.3, lost=0.3, keep=-1e9)  # what is read between stays
    assert written(ours) == written(first)


def test_only_doubtful_drafts_are_read_and_only_unlikely_ones_taken_back() -> None:
    drafts = Router(PAIR, BothSides(sure=0.0, lost=0.0)).cohort(PROMPTS, max_new_tokens=80)
    sure = statistics.median(min(s.values) for o in drafts for s in o.trace.steps)
    policy = BothSides(sure=sure, keep=-3.0, lost=0.0)
    seen = set()
    for output in Router(PAIR, policy).cohort(PROMPTS, max_new_tokens=80):
        for step in output.trace.steps:
            if step.writer == "large" or not step.closed:
                continue
            doubtful = min(step.values) < sure
            assert bool(step.graded) == doubtful
            mean = sum(step.graded) / len(step.graded) if step.graded else 0.0
            assert step.discarded == (mean < -3.0)
            seen.add((doubtful, step.discarded))
    assert seen == {(False, False), (True, False), (True, True)}


def test_hold_asks_more_after_a_step_of_the_large_model() -> None:
    policy = BothSides(sure=0.9, lost=0.3, hold=0.3)

    def start(writer: str, margin: float):  # type: ignore[no-untyped-def]
        from steer_decode import StepStart

        from steer_kernels import logit_stats

        p = torch.tensor([[(1 + margin) / 2, (1 - margin) / 2]])
        return StepStart(1, writer, 0, logit_stats(p.log(), k=2))  # type: ignore[arg-type]

    assert policy.before_step(start("small", 0.5)) == "small"
    assert policy.before_step(start("large", 0.5)) == "large"
    assert policy.before_step(start("large", 0.7)) == "small"
    assert policy.before_step(start("small", 0.2)) == "large"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("both-sides:sure=2", r"sure must lie in \[0, 1\], got 2"),
        ("both-sides:sure=0.2:lost=0.3", "lost must not lie above sure, got 0.3 and 0.2"),
        ("both-sides:signal=entropy", "signal must be margin or max-prob, got entropy"),
        ("both-sides:keep=nan", "keep must be a number, got nan"),
    ],
)
def test_bad_settings(text: str, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        parse_policy(text)
