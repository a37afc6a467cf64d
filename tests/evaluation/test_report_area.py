"""The area under the accuracy-cost curve: against a search over all mixes, and what counts."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from steer_decode.evaluation.report import build, load
from steer_decode.evaluation.report.area import families
from steer_decode.evaluation.report.bootstrap import Bootstrap
from steer_decode.evaluation.report.data import Results
from steer_decode.evaluation.report.measure import Scope, measure
from steer_decode.util.numbers import area, corners
from support import made_results as made


def searched(cost: list[float], accuracy: list[float], budgets: int = 4001) -> float:
    """The same by trying, at each of many budgets, every setting and every mix of two."""
    points = [(max(x, cost[0]), y) for x, y in zip(cost, accuracy, strict=True) if x <= cost[-1]]
    at = np.linspace(cost[0], cost[-1], budgets)
    best = np.full(budgets, -np.inf)
    for x, y in points:
        best = np.where(at >= x, np.maximum(best, y), best)
    for (x, y), (u, v) in combinations(sorted(points), 2):
        if u > x:
            between = (at >= x) & (at <= u)
            best = np.where(between, np.maximum(best, y + (v - y) * (at - x) / (u - x)), best)
    return float(best.mean())


def test_the_straight_line_between_both_models_is_the_least() -> None:
    cost, accuracy = np.array([[0.1, 0.5, 1.0]]), np.array([[0.4, 0.3, 0.8]])
    assert area(cost, accuracy)[0] == pytest.approx(0.6)
    assert corners(cost[0], accuracy[0]) == [(0.1, 0.4), (1.0, 0.8)]


def test_one_good_setting_lifts_it_by_its_two_triangles() -> None:
    cost, accuracy = np.array([[0.0, 0.25, 1.0]]), np.array([[0.4, 0.8, 0.8]])
    assert area(cost, accuracy)[0] == pytest.approx(0.25 * 0.6 + 0.75 * 0.8)


def test_it_agrees_with_a_search_over_all_mixes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        n = int(rng.integers(1, 7))
        cost = [0.1, *rng.uniform(0, 1.3, n).tolist(), 1.0]
        accuracy = rng.uniform(0, 1, n + 2).tolist()
        found = area(np.array([cost]), np.array([accuracy]))[0]
        assert found == pytest.approx(searched(cost, accuracy), abs=2e-3), (cost, accuracy)


def test_it_has_no_meaning_where_the_large_model_is_the_cheaper_one() -> None:
    assert np.isnan(area(np.array([[1.0, 0.9]]), np.array([[0.2, 0.8]]))[0])


def sweep(folder: Path) -> Results:
    """Two thresholds of one router, and another router that is worse at equal cost."""
    right = {"small": 2, "large": 10, "a:threshold=1": 6, "a:threshold=2": 9, "b:threshold=1": 5}
    right["a:threshold=3"] = 10
    cost = {"small": 0.0, "large": 1.0, "a:threshold=1": 0.2, "a:threshold=2": 0.5}
    cost |= {"b:threshold=1": 0.5, "a:threshold=3": 1.2}
    rows = [
        made.row(name, "math", i, flops_paper=cost[name], correct=i < right[name])
        for name in right
        for i in range(10)
    ]
    return load([made.write(folder, rows, made.settings(list(right)))])


def measured(results: Results) -> Scope:
    boot = Bootstrap([domain for domain, _ in results.names], 400)
    return measure(results, boot, None, False)


def test_settings_of_one_router_are_a_family_and_dear_ones_do_not_count(tmp_path: Path) -> None:
    results = sweep(tmp_path)
    assert families(results) == {
        "a": ["a:threshold=1", "a:threshold=2", "a:threshold=3"],
        "b": ["b:threshold=1"],
    }
    areas = measured(results).areas
    assert areas is not None
    a, b = areas.families
    assert (a.counted["flops_paper"], b.counted["flops_paper"]) == (2, 1)
    expected = 0.2 * (0.2 + 0.6) / 2 + 0.3 * (0.6 + 0.9) / 2 + 0.5 * (0.9 + 1.0) / 2
    assert a.areas["flops_paper"].value == pytest.approx(expected)
    # b lies below the random mix, which takes its place.
    assert b.areas["flops_paper"].value == pytest.approx(0.6)
    assert "share" not in a.areas


def test_differences_are_paired(tmp_path: Path) -> None:
    areas = measured(sweep(tmp_path)).areas
    assert areas is not None
    a, b = (family.areas["flops_paper"] for family in areas.families)
    above = areas.differences["a", "b"]["flops_paper"]
    below = areas.differences["b", "a"]["flops_paper"]
    assert above.value == pytest.approx(a.value - b.value)
    assert (below.low, below.high) == pytest.approx((-above.high, -above.low))
    # Both intervals alone are wide, for the problems that b solves a solves too.
    assert above.high - above.low < 0.7 * ((a.high - a.low) + (b.high - b.low))
    assert areas.best("flops_paper").name == "a"


def test_without_both_models_alone_there_is_none(tmp_path: Path) -> None:
    rows = [made.row(router, "math", i) for router in ("small", "steer") for i in range(4)]
    results = load([made.write(tmp_path, rows, made.settings(["small", "steer"]))])
    assert measured(results).areas is None


@pytest.mark.slow
def test_the_report_holds_it_as_a_table_pictures_and_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.leave_pictures_blank(monkeypatch)
    report = build(sweep(tmp_path / "results"), resamples=100)
    report.write(tmp_path / "page.html", tmp_path / "figures")
    assert 'id="area"' in report.page
    assert {p.name for p in report.pictures} >= {"area-flops-paper", "area-flops-processed"}
    assert (tmp_path / "figures" / "area-flops-paper.svg").exists()
    numbers = json.loads((tmp_path / "figures" / "routers.json").read_text())[0]["areas"]
    assert [family["family"] for family in numbers["families"]] == ["a", "b"]
    assert numbers["families"][0]["area"]["flops_paper"][0] == pytest.approx(0.78)
    assert numbers["families"][0]["curve"]["flops_paper"][0] == [0.0, 0.2]
