"""The router that looks on both sides of a step: what is read, what stays, what it costs."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import torch
from steer_decode import (
    BothSides,
    FirstTokenEntropy,
    Pair,
    Router,
    SpecReason,
    SteerError,
    parse_policy,
)
from steer_decode.demo import DOMAINS, pair_paths, problems
from steer_decode.policies.fitted.both_sides import (
    COSTS,
    BothSidesCalibration,
    Knot,
    Plan,
    Thresholds,
)
from steer_decode.policies.fitted.file import SHIPPED
from support.tiny import make_pair, prompt_text

PAIR = make_pair("llama", 0)
PROMPTS = [prompt_text(i, 4 + i) for i in range(6)]


def written(policy) -> list:  # type: ignore[no-untyped-def]
    outputs = Router(PAIR, policy).cohort(PROMPTS, max_new_tokens=60)
    return [(s.writer, s.token_ids, s.discarded) for o in outputs for s in o.trace.steps]


@pytest.mark.slow
def test_with_every_draft_read_it_is_spec_reason() -> None:
    assert written(BothSides(sure=1.0, keep=-3.0, lost=0.0, fix="step")) == written(
        SpecReason(-3.0)
    )


@pytest.mark.slow
def test_where_every_draft_stays_it_is_the_first_token_router() -> None:
    assert written(BothSides(sure=0.3, lost=0.3)) != written(BothSides(sure=0.0, lost=0.0))
    first = FirstTokenEntropy(0.3, "margin")
    ours = BothSides(sure=0.3, lost=0.3, keep=-1e9)  # what is read between stays
    assert written(ours) == written(first)


def test_only_doubtful_drafts_are_read_and_only_unlikely_ones_taken_back() -> None:
    drafts = Router(PAIR, BothSides(sure=0.0, lost=0.0)).cohort(PROMPTS, max_new_tokens=80)
    sure = statistics.median(min(s.values) for o in drafts for s in o.trace.steps)
    policy = BothSides(sure=sure, keep=-3.0, lost=0.0, fix="step")
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
        ("both-sides:fix=word", "fix must be one of token, step, got 'word'"),
        ("both-sides:keep=nan", "keep must be a number, got nan"),
    ],
)
def test_bad_settings(text: str, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        parse_policy(text)


def test_a_draft_below_doubt_is_taken_back_unread() -> None:
    drafts = Router(PAIR, BothSides(sure=0.0, lost=0.0)).cohort(PROMPTS, max_new_tokens=80)
    doubt = statistics.median(min(s.values) for o in drafts for s in o.trace.steps)
    policy = BothSides(sure=doubt, lost=0.0, doubt=doubt)
    seen = set()
    for output in Router(PAIR, policy).cohort(PROMPTS, max_new_tokens=80):
        for step in output.trace.steps:
            if step.writer == "small" and step.closed:
                assert not step.graded
                assert step.discarded == (min(step.values) < doubt)
                seen.add(step.discarded)
    assert seen == {False, True}


def calibration(pair: str = "") -> BothSidesCalibration:
    """Knots at 0, 0.5 and 1 on a scale where the middle one is half way."""
    low, high = Thresholds(2.0, -40.0, -1.0, -1.0, 0.0), Thresholds(2.0, 0.0, 2.0, -1.0, 0.4)
    knots = [Knot(0.0, low), Knot(0.5, low.towards(high, 0.5)), Knot(1.0, high)]
    plan = Plan("max-prob", "mean", -1.0, knots)
    return BothSidesCalibration(pair or PAIR.fingerprint, dict.fromkeys(COSTS, plan))


class TestShare:
    def test_thresholds_lie_between_the_neighbouring_knots(self) -> None:
        found = BothSides(share=0.25, path=calibration()).thresholds
        assert (found.keep, found.lost, found.hold) == pytest.approx((-30.0, -0.25, 0.1))
        assert not BothSides(share=0.0, path=calibration()).looks_ahead

    def test_the_ends_are_either_model_alone(self) -> None:
        for share, writer in ((0.0, "small"), (1.0, "large")):
            steps = written(BothSides(share=share, path=calibration()))
            assert {who for who, _, discarded in steps if not discarded} == {writer}

    def test_it_is_kept_whole(self, tmp_path: Path) -> None:
        made = calibration()
        made.save(tmp_path / "sides.json")
        assert BothSidesCalibration.load(tmp_path / "sides.json") == made
        spec = f"both-sides:share=0.3:cost=papers:path={tmp_path / 'sides.json'}"
        assert str(parse_policy(spec)) == spec

    def test_another_pair_is_refused(self) -> None:
        policy = BothSides(share=0.3, path=calibration("0123456789abcdef"))
        with pytest.raises(SteerError, match=r"was made for another pair.*calibrate --router both"):
            Router(PAIR, policy)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "JSONDecodeError"),
            ('{"version": 2, "kind": "both-sides"}', "not version 1"),
            ('{"version": 1, "kind": "both-sides", "pair": "x", "plans": {}}', "plans for"),
        ],
    )
    def test_another_file_is_refused(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(SteerError, match=f"is no calibration of router.*{message}"):
            BothSidesCalibration.load(tmp_path / "x.json")
        with pytest.raises(SteerError, match="cannot read calibration"):
            BothSidesCalibration.load(tmp_path / "none.json")

    def test_shares_have_to_rise(self, tmp_path: Path) -> None:
        made = calibration()
        plan = made.plans["papers"]
        falling = Plan(plan.signal, plan.over, plan.lowest, [*plan.knots][::-1])
        BothSidesCalibration("x", dict.fromkeys(COSTS, falling)).save(tmp_path / "x.json")
        with pytest.raises(SteerError, match="shares do not rise"):
            BothSidesCalibration.load(tmp_path / "x.json")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("both-sides:share=0.3", "needs a calibration of the pair, path=FILE"),
            ("both-sides:share=1.3", r"share must lie in \[0, 1\], got 1.3"),
            ("both-sides:share=0.3:lost=0.2", "give either share or lost"),
            ("both-sides:share=0.3:fix=step", "give either share or fix"),
            ("both-sides:share=0.3:cost=euros", "cost must be one of papers, processed, bytes"),
            ("both-sides:cost=papers", "cost=papers is for share"),
            ("both-sides:doubt=0.99", "doubt must not lie above sure"),
            ("both-sides:over=last", "over must be one of min, mean"),
        ],
    )
    def test_bad_settings(self, text: str, message: str) -> None:
        with pytest.raises(SteerError, match=message):
            parse_policy(text)

    @pytest.mark.slow
    def test_the_demo_pair_has_one_and_more_share_is_more_share(self) -> None:
        shipped = BothSidesCalibration.load(SHIPPED / "both-sides.json")
        pair = Pair.from_pretrained(*pair_paths())
        prompts = [p.prompt for name in DOMAINS for p in problems(name, 3, split="test")]
        for cost in ("processed", "bytes"):
            shares = []
            for share in (0.0, 0.15, 0.6, 1.0):
                policy = BothSides(share=share, cost=cost, path=shipped)
                outputs = Router(pair, policy).cohort(prompts, max_new_tokens=128)
                kept = [s for o in outputs for s in o.trace.kept]
                large = sum(s.by("large") for s in kept)
                shares.append(large / sum(len(s.token_ids) for s in kept))
            assert shares[0] == 0
            assert shares == sorted(shares)
            assert shares[-1] == 1
            assert shares[1] == pytest.approx(0.15, abs=0.12)
