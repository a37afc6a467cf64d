"""The figures of a report: intervals, chance at equal cost, positions, scores; what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from steer_decode import SteerError
from steer_decode.evaluation.report import load
from steer_decode.evaluation.report.bootstrap import Bootstrap, auroc, interval
from steer_decode.evaluation.report.confidence import calibration, how_judged, judged, scores
from steer_decode.evaluation.report.data import Results
from steer_decode.evaluation.report.measure import Scope, measure
from steer_decode.evaluation.report.series import by_difficulty, by_position
from steer_decode.evaluation.report.traces import choose
from steer_decode.evaluation.rows import StepRecord
from support import made_results as made


class TestBootstrap:
    def test_resamples_keep_the_size_of_each_domain(self) -> None:
        boot = Bootstrap(["a"] * 3 + ["b"] * 5, 50)
        member = np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 5)
        assert np.array_equal(boot.sums(member), np.tile([3.0, 5.0], (51, 1)))

    def test_the_first_row_is_the_sample_itself(self) -> None:
        values = np.arange(12.0).reshape(6, 2)
        boot = Bootstrap(["a"] * 6, 10)
        assert boot.sums(values)[0] == pytest.approx(values.sum(0))
        assert boot.ratio(values, values)[:, 0] == pytest.approx(1.0)

    def test_nothing_below_the_line_is_nan_and_left_out(self) -> None:
        boot = Bootstrap(["a"] * 2, 100)
        ratio = boot.ratio(np.array([1.0, 0.0]), np.array([1.0, 0.0]))
        assert np.isnan(ratio).any()
        assert interval(ratio) == (1.0, 1.0, 1.0)
        assert math.isnan(interval(np.full(5, np.nan)).value)

    def test_the_same_results_give_the_same_interval(self) -> None:
        values = np.random.default_rng(1).random(40)
        one, two = (interval(Bootstrap(["a"] * 40, 200).sums(values)) for _ in range(2))
        assert one == two

    def test_intervals_hold_the_truth_about_as_often_as_they_say(self) -> None:
        rng = np.random.default_rng(0)
        boot = Bootstrap(["a"] * 100, 300)
        hits = 0
        for _ in range(200):
            found = interval(boot.ratio((rng.random(100) < 0.3) * 1.0, np.ones(100)))
            hits += found.low <= 0.3 <= found.high
        assert 0.89 <= hits / 200 <= 0.99

    def test_auroc_counts_pairs(self) -> None:
        rng = np.random.default_rng(0)
        right, wrong = rng.integers(0, 9, 30).tolist(), rng.integers(0, 7, 20).tolist()
        pairs = [(a > b) + (a == b) / 2 for a in right for b in wrong]
        assert auroc(right, wrong) == pytest.approx(np.mean(pairs))
        assert math.isnan(auroc([], wrong))


def known(tmp_path: Path) -> Results:
    """Accuracies 0.2, 1 and 0.8 at costs 1, 10 and 5.5; "dear" costs more than the large model."""
    right = {"small": 2, "large": 10, "steer": 8, "dear": 7}
    cost = {"small": 1.0, "large": 10.0, "steer": 5.5, "dear": 12.0}
    rows = [
        made.row(router, "math", i, flops_processed=cost[router], correct=i < right[router])
        for router in right
        for i in range(10)
    ]
    return load([made.write(tmp_path, rows, made.settings(list(right)))])


def scope(results: Results, seconds: bool = False) -> Scope:
    boot = Bootstrap([domain for domain, _ in results.names], 300)
    return measure(results, boot, None, seconds)


class TestMeasure:
    def test_chance_is_the_line_between_both_models_at_equal_cost(self, tmp_path: Path) -> None:
        figures = {r.router: r for r in scope(known(tmp_path)).routers}
        steer = figures["steer"]
        assert steer.accuracy.value == pytest.approx(0.8)
        assert steer.costs["flops_processed"].value == pytest.approx(0.55)
        assert steer.absolute["flops_processed"] == pytest.approx(5.5)
        # Half way between 0.2 and 1.
        above = steer.above_chance["flops_processed"]
        assert above.value == pytest.approx(0.2)
        assert above.low < 0.2 < above.high
        # Dearer than the large model: compared with that.
        assert figures["dear"].above_chance["flops_processed"].value == pytest.approx(-0.3)
        for control in ("small", "large"):
            assert figures[control].above_chance["flops_processed"] == pytest.approx((0, 0, 0))

    def test_routers_are_compared_in_pairs(self, tmp_path: Path) -> None:
        (pair,) = scope(known(tmp_path)).pairs
        assert (pair.first, pair.second) == ("steer", "dear")
        assert pair.accuracy.value == pytest.approx(0.1)
        assert pair.costs["flops_processed"].value == pytest.approx(5.5 / 12)
        # The problems that both solve are the same ones: paired, the lower bound is 0.
        assert pair.accuracy.low == pytest.approx(0)

    def test_the_line_ends_in_both_models(self, tmp_path: Path) -> None:
        line = scope(known(tmp_path)).lines["flops_processed"]
        assert (line.costs[0], line.costs[-1]) == pytest.approx((0.1, 1.0))
        assert (line.accuracy[0].value, line.accuracy[-1].value) == pytest.approx((0.2, 1.0))

    def test_a_share_of_tokens_counts_the_length_of_answers(self, tmp_path: Path) -> None:
        def trace(*steps: tuple[str, int]) -> list[StepRecord]:
            return [StepRecord(w, "a", n) for w, n in steps]  # type: ignore[arg-type]

        rows = []
        for i in range(4):
            rows += [
                made.row("small", "qa", i, trace=trace(("small", 10)), correct=False),
                made.row("large", "qa", i, trace=trace(("large", 30)), correct=True),
                made.row("steer", "qa", i, trace=trace(("small", 9), ("large", 9)), correct=False),
            ]
        results = load([made.write(tmp_path, rows, made.settings(["small", "large", "steer"]))])
        # One question in four to the large model: 30 of 60 tokens are its own.
        assert scope(results).routers[2].above_chance["share"].value == pytest.approx(-0.25)

    def test_without_a_model_alone_there_is_no_line(self, tmp_path: Path) -> None:
        rows = [made.row(router, "math", i) for router in ("small", "steer") for i in range(4)]
        found = scope(load([made.write(tmp_path, rows, made.settings(["small", "steer"]))]))
        assert not found.lines
        assert not found.relative
        assert not found.routers[1].above_chance
        assert found.routers[1].costs["flops_paper"].value == pytest.approx(5.5e6)

    def test_seeds_of_a_problem_are_one_observation(self, tmp_path: Path) -> None:
        once = [made.row("steer", "math", i, 0, correct=i < 5) for i in range(10)]
        many = [made.row("steer", "math", i, s, correct=i < 5) for i in range(10) for s in range(5)]
        with_routers = made.settings(["steer"])
        found = [
            scope(load([made.write(tmp_path / name, rows, with_routers)])).routers[0].accuracy
            for name, rows in (("once", once), ("many", many))
        ]
        assert found[0] == pytest.approx(found[1])

    def test_seconds_are_there_when_wished_for(self, tmp_path: Path) -> None:
        results = known(tmp_path)
        assert "seconds" not in scope(results).routers[0].costs
        assert "seconds" in scope(results, seconds=True).routers[0].costs

    def test_positions_and_difficulties(self, tmp_path: Path) -> None:
        results = load([made.write(tmp_path)])
        boot = Bootstrap([domain for domain, _ in results.names], 100)
        always, never = (by_position(results, boot, r) for r in ("large", "small"))
        assert (list(always.x), always.n[0]) == ([1, 2, 3], 40)
        assert {v.value for v in always.y} == {1.0}
        assert {v.value for v in never.y} == {0.0}
        levels = by_difficulty(results, boot, "steer", "correct")
        rows = [r for r in results.rows["steer"] if r.difficulty == 2]
        assert levels.n[1] == len(rows)
        assert levels.y[1].value == pytest.approx(np.mean([r.correct for r in rows]))


def test_the_large_models_use_is_counted_in_tokens_mended_ones_included(tmp_path: Path) -> None:
    steps = [
        StepRecord("small", "a", 4, discarded=True, refused=1),
        StepRecord("small", " b <c>\n", 5, others=1, inherited=1, patches=((3, 6),)),
        StepRecord("large", "c", 3),
    ]
    rows = [made.row(r, "qa", i, trace=steps) for i in range(6) for r in ("small", "mends")]
    results = load([made.write(tmp_path, rows, made.settings(["small", "mends"]))])
    use = by_position(results, Bootstrap(["qa"] * 6, 100), "mends")
    assert [y.value for y in use.y] == [0.2, 1.0]
    row = rows[0]
    assert (row.tokens, row.large_tokens, row.discarded_tokens) == (8, 4, 3)
    shown = choose(results).data["answers"][1]["steps"]
    assert [step.get("parts") for step in shown] == [None, ["b ", "<c>", ""], None]


class TestConfidence:
    def test_labels_win_over_the_answer(self) -> None:
        labelled = made.row("steer", "math", 0)
        assert [right for _, right in judged(labelled)] == [
            step.right for step in labelled.trace if step.right is not None
        ]
        steps = [StepRecord("small", "a", 1, discarded=True), StepRecord("large", "b", 1)]
        plain = made.row("steer", "qa", 0, trace=steps, correct=False)
        assert list(judged(plain)) == [(steps[1], False)]

    def test_says_how_steps_were_judged(self, tmp_path: Path) -> None:
        how = how_judged(load([made.write(tmp_path)]))
        assert (how.by_label, how.by_answer) == (["math"], ["qa"])
        assert len(how.sentences()) == 2

    def test_surer_means_lower_where_the_signal_says_so(self, tmp_path: Path) -> None:
        rows = []
        for i in range(20):
            step = StepRecord("small", "a", 1, score=0.0 if i < 10 else 1.0)
            rows += [
                made.row(r, "qa", i, trace=[step], correct=i < 10) for r in ("small", "first-token")
            ]
        results = load([made.write(tmp_path, rows, made.settings(["small", "first-token"]))])
        found = scores(results)
        assert found["entropy"][0].auroc == 1.0
        assert found["max-logit"][0].auroc == 0.0

    def test_calibration_reads_what_the_router_goes_by(self, tmp_path: Path) -> None:
        results = load([made.write(tmp_path, n=20)])
        boot = Bootstrap([domain for domain, _ in results.names], 100)
        steer, first = (calibration(results, boot, r) for r in ("steer", "first-token"))
        assert steer is not None
        assert first is not None
        assert steer.probability
        assert all(0 <= x <= 1 for x in steer.series["small"].x)
        assert "entropy" in first.measure
        assert list(first.series) == ["small"]
        total = sum(
            step.writer == "small" and step.before is not None
            for r in results.rows["first-token"]
            for step, _ in judged(r)
        )
        assert sum(first.series["small"].n) == total


class TestLoad:
    def test_folders_of_one_pair_are_joined(self, tmp_path: Path) -> None:
        one = [made.row("small", "math", i) for i in range(4)]
        two = [made.row("large", "math", i) for i in range(3)]
        folders = [
            made.write(tmp_path / "a", one, made.settings(["small"])),
            made.write(tmp_path / "b", two, made.settings(["large"])),
        ]
        results = load(folders)
        assert results.routers == ["small", "large"]
        assert (len(results.names), results.left_out) == (3, 1)

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"pair": "fedcba9876543210"}, "another pair .* report each pair on its own"),
            ({"temperature": 0.1}, "temperature was 0.7, now 0.1.* report them apart"),
            ({"routers": {"small": "other"}}, "router 'small' was another one"),
        ],
    )
    def test_what_does_not_belong_together(
        self, tmp_path: Path, more: dict[str, Any], words: str
    ) -> None:
        rows = [made.row("small", "math", 0)]
        first = made.write(tmp_path / "a", rows)
        second = made.write(tmp_path / "b", rows, {**made.settings(), **more})
        with pytest.raises(SteerError, match=words):
            load([first, second])

    def test_one_name_for_two_problems(self, tmp_path: Path) -> None:
        first = made.write(tmp_path / "a", [made.row("small", "math", 0)])
        other = [made.row("large", "math", 0, difficulty=5)]
        second = made.write(tmp_path / "b", other)
        with pytest.raises(SteerError, match="its difficulty was 1, now 5"):
            load([first, second])

    def test_seconds_need_one_kind_of_run(self, tmp_path: Path) -> None:
        first = made.write(tmp_path / "a", [made.row("small", "math", 0)])
        second = made.write(
            tmp_path / "b", [made.row("large", "math", 0)], made.settings(threads=2)
        )
        assert load([first, second]).routers == ["small", "large"]
        with pytest.raises(SteerError, match=r"threads was 1, now 2.*leave out --seconds"):
            load([first, second], seconds=True)

    def test_the_same_answer_twice(self, tmp_path: Path) -> None:
        rows = [made.row("small", "math", 0)]
        folders = [made.write(tmp_path / name, rows) for name in "ab"]
        with pytest.raises(SteerError, match="both answer math:0 by 'small', seed 0"):
            load(folders)

    def test_nothing_in_common(self, tmp_path: Path) -> None:
        rows = [made.row("small", "math", 0), made.row("large", "math", 1)]
        with pytest.raises(SteerError, match="no problem was answered by every router"):
            load([made.write(tmp_path, rows)])

    def test_no_results(self, tmp_path: Path) -> None:
        with pytest.raises(SteerError, match="holds no results of `steer eval`"):
            load([tmp_path])
        with pytest.raises(SteerError, match="no answers yet"):
            load([made.write(tmp_path, [])])

    def test_a_line_in_the_making_is_left_alone(self, tmp_path: Path) -> None:
        path = made.write(tmp_path, n=2) / "results.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole + whole[:50])
        assert len(load([tmp_path]).names) == 4
        assert path.read_bytes() == whole + whole[:50]
