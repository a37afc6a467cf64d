"""STEER as published, and the percentile router: rounds judged as the paper defines them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from steer_decode import (
    Percentile,
    Policy,
    Router,
    SteerCohort,
    SteerError,
    Step,
    StepStart,
    Trace,
    parse_policy,
)
from steer_decode.policies import Verdict, Word
from steer_decode.policies.fitted.mixture import TwoGaussians, fit
from steer_decode.policies.math_tokens import math_tokens
from support.tiny import make_pair, prompt_text


def step(index: int, writer: str, score: float, ended: bool = False) -> Step:
    values = [score - 1, score + 1]
    return Step(index, writer, values=values, token_ids=[5, 6], ended=ended, closed=True)  # type: ignore[arg-type]


def words(verdicts: Sequence[Verdict]) -> list[Word]:
    return [verdict.what for verdict in verdicts]


def two_humps(n: int, seed: int = 0) -> list[float]:
    rng = np.random.default_rng(seed)
    low = rng.normal(10, 1, n // 2)
    return [*map(float, low), *map(float, rng.normal(20, 1.5, n - n // 2))]


def test_the_posterior_of_the_round_decides() -> None:
    scores = two_humps(40)
    policy = SteerCohort(gamma=0.6).start()
    steps = [step(3, "small", x) for x in scores]
    verdicts = policy.after_round(steps)
    mixture = fit(scores)
    assert mixture is not None
    for s, verdict, x in zip(steps, verdicts, scores, strict=True):
        c = mixture.weight_c * statistics.NormalDist(mixture.mean_c, mixture.var_c**0.5).pdf(x)
        u = (1 - mixture.weight_c) * statistics.NormalDist(mixture.mean_u, mixture.var_u**0.5).pdf(
            x
        )
        assert verdict.posterior == pytest.approx(c / (c + u), abs=1e-9)
        assert verdict.what == ("small" if c / (c + u) >= 0.6 else "large")
        assert s.posterior is None, "the loop writes it"
    assert {"small", "large"} == set(words(verdicts))


def test_either_writer_has_a_mixture_of_its_own() -> None:
    small, large = two_humps(30), [x + 100 for x in two_humps(30, 1)]
    steps = [step(2, "small", x) for x in small] + [step(2, "large", x) for x in large]
    verdicts = words(SteerCohort().start().after_round(steps))
    # Judged together, every step of the large model would look confident.
    assert set(verdicts[:30]) == set(verdicts[30:]) == {"small", "large"}


def test_only_an_unconfident_first_step_is_written_again() -> None:
    policy = SteerCohort().start()
    first = policy.after_round([step(0, "small", x) for x in two_humps(30)])
    assert set(words(first)) == {"redo", "small"}
    again = policy.after_round([step(0, "large", x) for x in two_humps(30)])
    assert set(words(again)) == {"large", "small"}
    later = policy.after_round([step(1, "small", x) for x in two_humps(30)])
    assert set(words(later)) == {"large", "small"}


def test_answers_that_have_ended_are_not_fitted() -> None:
    scores = two_humps(30)
    ended = [step(0, "small", 1e6, ended=True) for _ in range(20)]
    running = [step(0, "small", x) for x in scores]
    policy = SteerCohort().start()
    verdicts = policy.after_round(running + ended)
    mixture = fit(scores)
    assert mixture is not None
    assert verdicts[0].posterior == pytest.approx(mixture.posterior(scores[0]))


def test_a_degenerate_round_uses_the_last_good_fit_of_its_writer() -> None:
    policy = SteerCohort().start()
    none_yet = policy.after_round([step(1, "small", 15.0)] * 12)
    assert words(none_yet) == ["large"] * 12
    policy.after_round([step(2, "small", x) for x in two_humps(30)])
    both = policy.after_round([step(3, "small", 20.0), step(3, "small", 10.0)])
    assert words(both) == ["small", "large"]
    assert policy.after_step(step(3, "large", 20.0)).what == "large"  # not of the other writer
    # A new run knows nothing of the last one.
    assert words(policy.start().after_round([step(3, "small", 20.0)])) == ["large"]


def test_giving_up_is_off_and_leaves_the_rest_to_the_small_model() -> None:
    def start(*steps: Step) -> StepStart:
        return StepStart(len(steps), "large", 0, None, Trace("", "", [1], list(steps)))

    doubtful, sure = step(1, "large", 10.0), step(1, "large", 20.0)
    doubtful.posterior, sure.posterior = 0.08, 0.2
    small = step(0, "small", 10.0)
    small.posterior = 0.01
    assert SteerCohort().before_step(start(small, doubtful)) == "large"
    policy = parse_policy("steer-cohort:give_up=0.9").start()
    assert str(policy) == "steer-cohort:gamma=0.6:give_up=0.9"
    assert policy.before_step(start(small, sure)) == "large"
    # For ever: later steps of the small model change nothing.
    assert policy.before_step(start(small, doubtful)) == "small"
    assert policy.before_step(start(small, doubtful, sure, small)) == "small"


def test_who_has_given_up_stays_with_the_small_model() -> None:
    router = Router(make_pair("llama", 0), SteerCohort(gamma=0.9, give_up=0.5))
    outputs = router.cohort([prompt_text(i, 3 + i) for i in range(16)], max_new_tokens=60)
    given_up = 0
    for output in outputs:
        steps = output.trace.steps
        doubts = [
            i
            for i, s in enumerate(steps)
            if s.writer == "large" and s.posterior is not None and s.posterior <= 0.5
        ]
        if doubts:
            rest = steps[doubts[0] + 1 :]
            given_up += bool(rest)
            assert all(s.writer == "small" for s in rest)
    assert given_up


def test_a_step_without_a_token_that_counts_goes_to_the_large_model() -> None:
    bare = Step(2, "small", values=[50.0, 60.0], token_ids=[5, 6], counted=[False, False])
    assert math.isnan(bare.score)
    assert bare.to_dict()["score"] is None
    verdicts = (
        SteerCohort(tokens="math")
        .start()
        .after_round([bare] + [step(2, "small", x) for x in two_humps(30)])
    )
    assert verdicts[0].what == "large"
    assert "small" in words(verdicts)


def test_the_monotone_posterior_trusts_the_surest() -> None:
    # Means 20 and 25, deviations 3 and 1.2: far above 25 the wider hump has the fatter tail.
    mixture = TwoGaussians(0.65, 20.0, 9.0, 25.0, 1.44)
    assert mixture.posterior(35.0) < 0.5 < mixture.posterior(25.0)
    assert mixture.posterior(35.0, monotone=True) == mixture.posterior(25.0)
    assert mixture.posterior(5.0, monotone=True) == mixture.posterior(20.0)
    assert mixture.posterior(23.0, monotone=True) == mixture.posterior(23.0)
    values = [mixture.posterior(x / 10, monotone=True) for x in range(100, 400)]
    assert values == sorted(values)


@pytest.mark.parametrize("signal", ["max-logit", "entropy"])
def test_percentile_routes_its_share(signal: str) -> None:
    policy = Percentile(0.3, signal)
    scores = two_humps(30)
    verdicts = words(policy.after_round([step(4, "small", x) for x in scores]))
    routed = sorted(x for x, v in zip(scores, verdicts, strict=True) if v == "large")
    ranked = sorted(scores, reverse=signal == "entropy")
    assert routed == sorted(ranked[:9])
    assert words(policy.after_round([step(1, "small", 3.0)] * 10)).count("large") == 3


@pytest.mark.parametrize("name", ["steer-cohort:gamma=0.5:tokens=math:monotone=true", "percentile"])
@pytest.mark.few(1)
def test_a_cohort_runs_with_them(name: str) -> None:
    pair = make_pair("llama", 0)
    prompts = [prompt_text(i, 3 + i) for i in range(16)]
    outputs = Router(pair, parse_policy(name)).cohort(prompts, max_new_tokens=60)
    assert any(o.cost.hand_overs for o in outputs)
    for output in outputs:
        for s in output.trace.steps:
            if "math" in name:
                texts = pair.boundary.texts(s.token_ids)
                assert s.counted == math_tokens(texts)
                counted = [v for v, c in zip(s.values, s.counted, strict=True) if c]
                assert math.isnan(s.score) or s.score == pytest.approx(np.mean(counted))
        # The only discard is a first step of the small model.
        assert all(s.index == 0 and s.writer == "small" for s in output.trace.steps if s.discarded)


@pytest.mark.parametrize("policy", [SteerCohort(), Percentile()], ids=lambda p: p.name)
def test_one_answer_alone_cannot_be_judged_in_rounds(policy: Policy) -> None:
    router = Router(make_pair("llama", 0), policy)
    with pytest.raises(SteerError, match=r"judges the answers of a cohort together.*Router.cohort"):
        router.stream(prompt_text(0))


@pytest.mark.parametrize(
    ("texts", "counts"),
    [
        (["So", " we", " add", " 12", " +", " 3", ".", "\n\n"], "00011100"),
        (["Let", " $", "x", "$", " be", " it"], "011100"),
        (["It", " costs", " $", " a", " lot"], "00000"),
        (["\\[", " a", " \\]", " then"], "0100"),
        (["\\[", " a", " b"], "011"),
        (["\\frac", "{", "a", "}"], "1000"),
        (["\\begin{", "align}", " y", " \\end{align}", " so"], "11110"),
        (["(", " ", "\\", "\n\n"], "0000"),
        ([], ""),
    ],
)
def test_math_tokens(texts: list[str], counts: str) -> None:
    assert "".join("01"[c] for c in math_tokens(texts)) == counts


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SteerCohort(gamma=1.5), r"gamma must lie in \[0, 1\], got 1.5"),
        (lambda: SteerCohort(give_up=-1), r"give_up must lie in \[0, 1\], got -1"),
        (lambda: SteerCohort(tokens="words"), "tokens must be one of all, math, got 'words'"),
        (lambda: Percentile(-0.1), r"share must lie in \[0, 1\], got -0.1"),
    ],
)
def test_bad_settings(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SteerError, match=message):
        make()
