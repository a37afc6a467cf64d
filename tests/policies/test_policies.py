"""Specifications, ranges and rules of the routers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from steer_decode import (
    Calibration,
    FirstTokenEntropy,
    Pair,
    RandomShare,
    Router,
    Steer,
    SteerError,
    Step,
    StepStart,
    get_signal,
    parse_policy,
)
from steer_decode.demo import DOMAINS, pair_paths, problems
from steer_decode.fitting.mixtures import Prompts, calibrate
from steer_decode.policies.fitted.mixture import TwoGaussians
from support.tiny import make_pair, prompt_text

from steer_kernels import logit_stats


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "stear",
            "unknown router 'stear': choose from small, large, steer-cohort, steer, percentile",
        ),
        ("random:share=lots", "share of router 'random' must be a number, got 'lots'"),
        ("random:shares=0.5", "router 'random' has no setting 'shares=0.5': it takes share"),
        ("random:share", "router 'random' has no setting 'share'"),
        ("small:share=1", "router 'small' has no setting 'share=1': it takes none"),
        ("random:share=1.5", r"share must lie in \[0, 1\], got 1.5"),
        ("first-token:threshold=nan", "threshold must be a number, got nan"),
        ("first-token:signal=hunch", "unknown signal 'hunch': choose from max-logit"),
        ("steer", "steer needs either a calibration .* or a threshold"),
        ("steer:threshold=3:gamma=2", r"gamma must lie in \[0, 1\], got 2"),
        ("steer:calibration=none.json", "cannot read calibration 'none.json'"),
    ],
)
def test_bad_specifications(text: str, message: str) -> None:
    with pytest.raises(SteerError, match=message):
        parse_policy(text)


@pytest.mark.parametrize(
    "text",
    ["small", "large", "random:share=0.25", "first-token:threshold=0.4:signal=margin"],
)
def test_a_policy_prints_as_its_specification(text: str) -> None:
    assert str(parse_policy(text)) == text


def test_a_threshold_stands_in_for_a_default_calibration() -> None:
    policy = parse_policy("steer:threshold=12", calibration="never read")
    assert isinstance(policy, Steer)
    assert policy.calibration is None


def test_signals_point_the_way_they_say() -> None:
    stats = logit_stats(torch.tensor([[9.0, 0, 0, 0], [1.0, 0.9, 0, 0]]), k=2)
    for name in ("max-logit", "max-prob", "entropy", "margin"):
        signal = get_signal(name)
        sure, unsure = (signal.confidence(float(v)) for v in signal.read(stats))
        assert sure > unsure
    own = get_signal(lambda s: s.max_logit - s.lse)
    assert own.higher_is_surer


def test_first_token_routes_on_the_unsure_side() -> None:
    def start(logits: list[float]) -> StepStart:
        return StepStart(3, "small", 0, logit_stats(torch.tensor([logits]), k=2))

    for policy in (FirstTokenEntropy(0.5), FirstTokenEntropy(0.5, signal="margin")):
        assert policy.before_step(start([9.0, 0, 0, 0])) == "small"
        assert policy.before_step(start([1.0, 0.9, 0, 0])) == "large"


def test_random_shares_are_nested_and_kept() -> None:
    def chosen(share: float) -> set[int]:
        policy = RandomShare(share)
        starts = (StepStart(i, "small", 5, None) for i in range(2000))
        return {s.index for s in starts if policy.before_step(s) == "large"}

    assert chosen(0.0) == set()
    assert len(chosen(1.0)) == 2000
    assert chosen(0.3) < chosen(0.5)
    assert len(chosen(0.3)) / 2000 == pytest.approx(0.3, abs=0.04)


def step(index: int, writer: str, score: float) -> Step:
    return Step(index, writer, values=[score - 1, score + 1], token_ids=[5, 6])  # type: ignore[arg-type]


def steer_with(mixtures: dict[int, TwoGaussians], gamma: float = 0.6) -> Steer:
    fits = {"small": mixtures, "large": {}}
    return Steer(Calibration("x", "max-logit", fits, {"small": {}, "large": {}}), gamma)  # type: ignore[arg-type]


def test_steer_routes_by_the_posterior_of_the_bin() -> None:
    low, high = TwoGaussians(0.5, 0, 1, 4, 1), TwoGaussians(0.5, 10, 1, 14, 1)
    policy = steer_with({0: low, -1: high})
    assert policy.after_step(step(0, "small", 5)).what == "small"
    assert policy.after_step(step(0, "small", 0)).what == "redo"
    later = step(7, "small", 5)  # no fit of bin 4: the one over all steps judges
    verdict = policy.after_step(later)
    assert verdict.what == "large"
    assert verdict.posterior == pytest.approx(high.posterior(5))


def test_steer_without_a_fit_asks_the_large_model() -> None:
    policy = steer_with({-1: TwoGaussians(0.5, 0, 1, 4, 1)})
    assert policy.after_step(step(2, "large", 99)).what == "large"


def test_only_a_first_step_of_the_small_model_is_taken_back() -> None:
    policy = Steer(threshold=5.0, large_threshold=8.0)
    assert policy.after_step(step(0, "small", 4.9)).what == "redo"
    assert policy.after_step(step(0, "large", 7.9)).what == "large"
    assert policy.after_step(step(1, "small", 4.9)).what == "large"
    assert policy.after_step(step(1, "small", 5.1)).what == "small"
    entropy = Steer(threshold=0.5, signal="entropy")
    assert entropy.after_step(step(1, "small", 0.4)).what == "small"
    assert entropy.after_step(step(1, "small", 0.6)).what == "large"


def test_calibration_round_trip_and_refusals(tmp_path: Path) -> None:
    pair = make_pair("qwen2", 1)
    prompts = [prompt_text(i) for i in range(12)]
    made, _ = calibrate(Prompts(pair, prompts, options={"max_new_tokens": 40}))
    assert made.counts["small"][-1] > 10
    assert made.fits["small"]
    path = tmp_path / "c.json"
    made.save(path)
    assert list(tmp_path.iterdir()) == [path]
    loaded = Calibration.load(path)
    assert loaded == made
    Router(pair, Steer(str(path))).generate(prompts[0], max_new_tokens=20)
    with pytest.raises(SteerError, match=r"calibration '.*c\.json' was made for another pair"):
        Router(make_pair("qwen2", 2), Steer(str(path)))
    path.write_text('{"version": 9}')
    with pytest.raises(SteerError, match=r"is not a calibration .*version 9, expected 1"):
        Calibration.load(path)


@pytest.mark.slow
def test_a_target_share_is_reached_with_routing_on() -> None:
    pair = Pair.from_pretrained(*pair_paths())
    prompts = [p.prompt for name in DOMAINS for p in problems(name, 12, split="calibration")]
    run = Prompts(pair, prompts, options={"max_new_tokens": 120}, cohort=36)
    made, scores = calibrate(run, large_share=0.4)
    assert abs(made.settings["achieved_share"] - 0.4) <= 0.03  # type: ignore[operator]
    # Loaded without a gamma, the router takes the one that was found, and meets the share again.
    policy = Steer(made)
    assert policy.gamma == made.settings["gamma"]
    outputs = Router(pair, policy).cohort(prompts, max_new_tokens=120)
    tokens = [(len(s.token_ids), s.writer == "large") for o in outputs for s in o.trace.kept]
    share = sum(n for n, large in tokens if large) / sum(n for n, _ in tokens)
    assert share == pytest.approx(made.settings["achieved_share"], abs=1e-3)
    assert {w: {k: len(v) for k, v in b.items()} for w, b in scores.items()} == made.counts


@pytest.mark.parametrize("options", [{"gamma": 1.5}, {"large_share": 0.0}, {"large_share": 1.0}])
def test_bad_targets(options: dict[str, float]) -> None:
    with pytest.raises(SteerError, match=r"(gamma|large_share) must lie"):
        calibrate(Prompts(make_pair("qwen2", 1), [prompt_text(0)]), **options)
