"""Intervals of shares: right as published, and never without a width."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from steer_decode.evaluation.report.bootstrap import Bootstrap, difference, mean_share
from steer_decode.evaluation.report.data import load
from steer_decode.evaluation.report.measure import measure
from steer_decode.evaluation.report.series import by_difficulty
from steer_decode.evaluation.summary import summarise
from steer_decode.util.intervals import shares, unseen, wilson
from support import made_results as made


@pytest.mark.parametrize(
    ("low", "high", "right", "n"),
    [
        (0.0, 0.2775, 0, 10),
        (0.7225, 1.0, 10, 10),
        (0.2366, 0.7634, 5, 10),
        (0.0552, 0.1744, 10, 100),
        (0.9777, 0.9993, 249, 250),
        (0.0, 0.7935, 0, 1),
    ],
)
def test_wilsons_interval(low: float, high: float, right: int, n: int) -> None:
    found = wilson(right / n, n)
    # The score interval: Newcombe, Statistics in Medicine 17 (1998), method 3.
    assert (float(found[0]), float(found[1])) == pytest.approx((low, high), abs=1e-4)
    column = np.array([[1.0]] * right + [[0.0]] * (n - right))
    value, least, most = shares(column, np.ones_like(column), ["a"] * n)
    assert float(value[0]) == pytest.approx(right / n)
    assert (least[0], most[0]) == pytest.approx((float(found[0]), float(found[1])))


def test_what_none_showed_is_wilsons_bound() -> None:
    assert unseen(10) == pytest.approx(float(wilson(0.0, 10)[1]))


def test_nine_in_ten_and_more_hold_the_share() -> None:
    rng = np.random.default_rng(0)
    for truth in (0.03, 0.3, 0.98):
        column = (rng.random((50, 2000)) < truth).astype(float)
        _, low, high = shares(column, np.ones_like(column), ["a"] * 25 + ["b"] * 25)
        assert ((low <= truth) & (truth <= high)).mean() > 0.9


def test_groups_of_fixed_size_vary_less_than_one() -> None:
    column = np.array([[1.0]] * 20 + [[0.0]] * 20)
    names = ["a"] * 20 + ["b"] * 20
    value, low, high = shares(column, np.ones_like(column), names)
    assert value[0] == 0.5
    # Either group is all right or all wrong, and yet each has an interval of 20.
    reach = 0.5 * unseen(20)
    assert (low[0], high[0]) == pytest.approx((0.5 - reach, 0.5 + reach))
    one = shares(column, np.ones_like(column), ["a"] * 40)
    assert high[0] - low[0] < one[2][0] - one[1][0]


def test_seeds_of_a_problem_are_one_and_steps_in_one_vary_together() -> None:
    once = np.array([[1.0], [1.0], [0.0], [1.0]])
    names = ["a"] * 4
    alone = shares(once, np.ones_like(once), names)
    five = shares(5 * once, 5 * np.ones_like(once), names)
    assert [float(x[0]) for x in five] == pytest.approx([float(x[0]) for x in alone])
    # Where seeds differ they tell more than one does.
    mixed = np.array([[3.0], [4.0], [3.5], [4.5]])
    _, low, high = shares(mixed, 5 * np.ones_like(mixed), names)
    assert high[0] - low[0] < alone[2][0] - alone[1][0]


def test_a_column_that_counts_nothing_is_nan() -> None:
    value, _, _ = shares(np.zeros((3, 1)), np.zeros((3, 1)), ["a"] * 3)
    assert np.isnan(value[0])


class TestReport:
    @pytest.mark.parametrize("right", [True, False])
    def test_all_right_or_all_wrong_has_a_width(self, tmp_path: Path, right: bool) -> None:
        rows = [
            made.row(router, "math", i, correct=right)
            for router in ("small", "large", "steer", "other")
            for i in range(10)
        ]
        names = ["small", "large", "steer", "other"]
        results = load([made.write(tmp_path, rows, made.settings(names))])
        boot = Bootstrap([domain for domain, _ in results.names], 200)
        scope = measure(results, boot, None, seconds=False)
        expected = (0.7225, 1.0) if right else (0.0, 0.2775)
        for router in scope.routers:
            assert router.accuracy.value == float(right)
            assert router.accuracy[1:] == pytest.approx(expected, abs=1e-3)
        (pair,) = scope.pairs
        assert pair.accuracy == pytest.approx((0, -0.2775, 0.2775), abs=1e-3)
        above = {r.router: r.above_chance["flops_processed"] for r in scope.routers}
        assert above["steer"] == pytest.approx((0, -0.2775, 0.2775), abs=1e-3)
        assert above["small"] == pytest.approx((0, 0, 0)), "an end of the line is on the line"
        for line in scope.lines.values():
            assert all(y[1:] == pytest.approx(expected, abs=1e-3) for y in line.accuracy)
        series = by_difficulty(results, boot, "steer", "correct")
        assert all(y.high - y.low > 0.5 for y in series.y), "two problems of each difficulty"
        assert scope.areas is not None
        for family in scope.areas.families:
            assert family.areas["flops_processed"][1:] == pytest.approx(expected, abs=1e-3)
        for differences in scope.areas.differences.values():
            assert differences["flops_processed"].high == pytest.approx(0.2775, abs=1e-3)

    def test_resamples_that_differ_are_left_alone(self) -> None:
        samples = np.array([0.1, 0.0, 0.1, 0.2])
        assert difference(samples, 10).high == pytest.approx(0.195)
        assert mean_share(samples, 10).high == pytest.approx(0.195)

    def test_the_summary_has_them(self) -> None:
        rows = [made.row("steer", "math", i, correct=True) for i in range(10)]
        (record,) = (r for r in summarise(rows) if r["domain"] == "math")
        assert (record["accuracy_low"], record["accuracy_high"]) == pytest.approx(
            (0.7225, 1.0), abs=1e-3
        )
