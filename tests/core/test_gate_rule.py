"""Regions of numbers, and the rules that policies make of them, against what the policies say."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from steer_decode import (
    AlwaysLarge,
    AlwaysSmall,
    FirstTokenEntropy,
    Policy,
    RandomShare,
    Signal,
    Steer,
    SteerCohort,
    SteerError,
    Step,
    get_signal,
)
from steer_decode.core.gate_rule import EVERYWHERE, NOWHERE, GateRule, Region
from steer_decode.core.transcript import WRITERS, Writer
from steer_decode.policies import REDO, StepStart
from steer_decode.policies.fitted.calibration import Calibration
from steer_decode.policies.fitted.mixture import TwoGaussians

NUMBERS = st.floats(allow_nan=False)


@st.composite
def regions(draw: st.DrawFn) -> Region:
    ends = sorted(draw(st.lists(NUMBERS, max_size=8, unique=True)))
    return Region(tuple(zip(ends[::2], ends[1::2], strict=False)))


@given(regions(), NUMBERS)
def test_a_region_and_the_others_hold_every_number_once(region: Region, value: float) -> None:
    assert (value in region) != (value in ~region)
    assert (value in region) == (-value in -region)
    assert Region.parse(str(region)) == region


@given(regions())
def test_the_edges_belong_to_the_region_and_their_neighbours_do_not(region: Region) -> None:
    for low, high in region.intervals:
        assert low in region
        assert high in region
        for beyond in (math.nextafter(low, -math.inf), math.nextafter(high, math.inf)):
            inside = any(a <= beyond <= b for a, b in region.intervals)
            assert (beyond in ~region) == (not inside)


def test_nan_is_nowhere() -> None:
    assert math.nan not in EVERYWHERE
    assert math.nan not in ~NOWHERE


@pytest.mark.parametrize(
    "text", ["", "1", "1:2:3", "2:1", "a:b", "nan:1", "1:nan", "1:2,2:3", "3:4,1:2", "1:2,", "None"]
)
def test_text_that_is_no_region_is_refused(text: str) -> None:
    with pytest.raises(SteerError, match="low:high"):
        Region.parse(text)


@given(st.floats(-1e6, 1e6), st.booleans())
def test_a_threshold_is_found_to_the_last_bit(limit: float, above: bool) -> None:
    if above:
        assert Region.where(lambda x: x >= limit) == Region.at_least(limit)
    else:
        assert Region.where(lambda x: x <= limit) == Region.at_most(limit)


WEIGHT, MEAN, VARIANCE = st.floats(0.01, 0.99), st.floats(-50, 50), st.floats(0.01, 30)


@given(WEIGHT, MEAN, st.floats(0.1, 40), VARIANCE, VARIANCE, st.floats(0, 1), st.floats(-300, 300))
def test_the_confident_scores_of_a_mixture_are_those_of_its_posterior(
    weight: float, mean: float, apart: float, var_u: float, var_c: float, gamma: float, x: float
) -> None:
    mixture = TwoGaussians(weight, mean, var_u, mean + apart, var_c)
    region = mixture.confident(gamma)
    edges = [e for interval in region.intervals for e in interval if math.isfinite(e)]
    for value in (x, mean, mean + apart):
        if all(abs(value - edge) > 1e-6 for edge in edges):  # the posterior itself is rounded
            assert (value in region) == (mixture.posterior(value) >= gamma)


def test_the_narrower_component_is_confident_within_an_interval_only() -> None:
    # The example of an unequal-variance posterior that is not monotone: with weights .35/.65,
    # means 20/25 and deviations 3/1.2 the surest steps are unconfident again.
    region = TwoGaussians(0.65, 20, 9, 25, 1.44).confident(0.5)
    ((low, high),) = region.intervals
    assert 20 < low < 25 < high < 40
    wider = TwoGaussians(0.65, 20, 1.44, 25, 9).confident(0.5)
    assert len(wider.intervals) == 2
    assert wider.intervals[0][0] == -math.inf
    assert wider.intervals[1][1] == math.inf


def calibrated(signal: str = "max-logit", gamma: float = 0.6) -> Steer:
    sign = 1 if get_signal(signal).higher_is_surer else -1
    fits = {
        0: TwoGaussians(0.6, sign * 5 - 1, 4.0, sign * 5 + 1, 1.0),
        2: TwoGaussians(0.5, sign * 4 - 2, 1.0, sign * 4 + 2, 3.0),
        -1: TwoGaussians(0.7, sign * 3 - 1, 1.0, sign * 3 + 1, 1.0),
    }
    by_writer = {"small": fits, "large": {4: fits[2]}}
    counts: dict[Writer, dict[int, int]] = {w: {} for w in WRITERS}
    return Steer(Calibration("pair", signal, by_writer, counts), gamma=gamma)  # type: ignore[arg-type]


AFTER = [
    Steer(threshold=15.3, large_threshold=21.0),
    Steer(threshold=0.4, signal="entropy"),
    calibrated(),
    calibrated("entropy", 0.3),
]


@pytest.mark.parametrize("policy", AFTER, ids=str)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_gate_goes_on_after_the_steps_after_which_the_policy_does(
    policy: Steer, writer: Writer
) -> None:
    rule = policy.gate_rule(writer)
    assert rule is not None
    assert rule.signal == policy.signal.name
    assert rule.before is None
    draw = random.Random(3)
    verdicts = set()
    for index in range(8):
        for _ in range(50):
            score = draw.uniform(-15, 25)
            word = policy.after_step(Step(index, writer, values=[score])).what
            goes_on = ("large" if word == REDO else word) == writer
            assert rule.stays(index, score) == goes_on
            verdicts.add(goes_on)
    assert verdicts == {True, False}


@pytest.mark.parametrize("limit", [15.3, 21.0])
def test_a_score_at_the_threshold_is_confident_and_one_bit_below_is_not(limit: float) -> None:
    for writer, goes_on in (("small", True), ("large", False)):
        rule = Steer(threshold=limit).gate_rule(writer)  # type: ignore[arg-type]
        assert rule is not None
        assert rule.stays(3, limit) == goes_on
        assert rule.stays(3, math.nextafter(limit, 0)) != goes_on


@pytest.mark.parametrize("signal", ["entropy", "margin", "max-prob"])
def test_a_look_before_a_step_decides_as_the_policy_does(signal: str) -> None:
    policy = FirstTokenEntropy(0.4, signal)
    rule = policy.gate_rule("small")
    assert rule is not None
    assert rule.after == ()
    for value in (0.0, 0.39, 0.4, math.nextafter(0.4, 1), 0.5, 0.9):
        start = StepStart(1, "small", 0, None, value=value)
        assert rule.opens(value) == (policy.before_step(start) == "small")
    large = policy.gate_rule("large")
    assert large is not None
    assert not large.stays(5, 0.1)  # the small model is asked before each step


def test_one_model_alone_goes_on_and_others_have_no_rule() -> None:
    assert AlwaysSmall().gate_rule("small") == AlwaysLarge().gate_rule("large") == GateRule()
    for policy in (RandomShare(), SteerCohort(), AlwaysSmall(), Policy()):
        assert policy.gate_rule("large") is None
    own = Signal("mine", lambda stats: stats.max_logit)
    assert Steer(threshold=1.0, signal=own).gate_rule("small") is None
    assert FirstTokenEntropy(signal=own).gate_rule("small") is None


def test_a_policy_that_judges_otherwise_has_no_rule_of_its_parent() -> None:
    class Twice(Steer):
        def after_step(self, step):
            return super().after_step(step)

    class Counting(FirstTokenEntropy):
        def counted(self, texts, prompt):
            return [True for _ in texts]

    class Named(Steer):
        """Changes nothing that a gate goes by."""

    assert Twice(threshold=1.0).gate_rule("small") is None
    assert Counting().gate_rule("small") is None
    assert Named(threshold=1.0).gate_rule("small") is not None
