"""Drafts in results and their report: kept, counted, drawn; folders without them stay readable."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from steer_decode import FirstTokenEntropy, Pair, SteerError
from steer_decode.demo import pair_paths
from steer_decode.evaluation.evaluate import Evaluation, settings
from steer_decode.evaluation.report import build, load
from steer_decode.evaluation.report.bootstrap import Bootstrap
from steer_decode.evaluation.report.data import Results
from steer_decode.evaluation.report.drafts import drafting, measure_drafts
from steer_decode.evaluation.report.series import by_place, lengths
from steer_decode.evaluation.report.styles import family, styles
from steer_decode.evaluation.rows import ResultRow, StepRecord
from steer_decode.evaluation.summary import markdown, summarise
from steer_decode.evaluation.tasks import demo_tasks
from steer_decode.policies import parse_policy
from support import made_results as made

DRAFTS = [[(4, 4), (4, 1)], [(4, 0), (2, 2)]]  # by step
ROUTERS = ["small", "large", "speculative:k=4"]


def drafted(domain: str, problem: int, **more: Any) -> ResultRow:
    """Two steps of 8 and 4 tokens in four passes: 7 of 14 drafted tokens stay."""
    steps = [
        StepRecord("large", "a b\n\n", 8, drafts=tuple(DRAFTS[0])),
        StepRecord("large", "c", 4, drafts=tuple(DRAFTS[1])),
    ]
    more = {"large_passes": 4, "trace": steps, **more}
    return made.row("speculative:k=4", domain, problem, **more)


def results(folder: Path, *rows: ResultRow) -> Results:
    models = [made.row(r, "qa", i) for r in ("small", "large") for i in range(6)]
    drafts = rows or [drafted("qa", i) for i in range(6)]
    return load([made.write(folder, [*models, *drafts], made.settings(ROUTERS))])


def boot(found: Results) -> Bootstrap:
    return Bootstrap([domain for domain, _ in found.names], 100)


class TestKept:
    @pytest.mark.parametrize("router", ["speculative:k=4", "large:draft=3"])
    def test_an_evaluation_keeps_the_drafts_of_each_step(self, router: str) -> None:
        pair = Pair.from_pretrained(*pair_paths())
        tasks = demo_tasks(["qa"], 1)
        routers = {router: parse_policy(router)}
        evaluation = Evaluation(pair, routers, tasks, {"max_new_tokens": 48})
        (row,) = evaluation.answer(evaluation.jobs()[:1])
        assert row.drafts
        assert all(0 <= stayed <= n <= 4 for n, stayed in row.drafts)
        assert row.large_passes is not None
        assert row.large_passes >= len(row.drafts)
        assert row.stayed_tokens <= row.large_tokens
        again = ResultRow.from_dict(json.loads(json.dumps(row.to_dict())))
        assert (again.drafts, again.large_passes) == (row.drafts, row.large_passes)

    def test_a_router_with_drafts_is_described_as_another_one(self) -> None:
        pair = Pair.from_pretrained(*pair_paths())
        routers = {"plain": FirstTokenEntropy(0.5), "drafted": parse_policy("first-token:draft=4")}
        evaluation = Evaluation(pair, routers, demo_tasks(["qa"], 1), {})
        described = settings(evaluation, {"small": "a", "large": "b"})["routers"]
        assert described["drafted"] == f"{described['plain']}:draft=4"

    def test_a_row_without_drafts_is_read_as_ever(self, tmp_path: Path) -> None:
        """Files of an older version have neither of the two fields."""
        rows = [made.row(r, "qa", i) for r in ("small", "large") for i in range(3)]
        path = made.write(tmp_path, rows) / "results.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            del line["large_passes"]
            assert all("drafts" not in step for step in line["trace"])
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        found = load([tmp_path])
        assert drafting(found) == []
        assert found.rows["small"] == rows[:3]

    @pytest.mark.parametrize("drafts", [[[4, 5]], [[0, 0]], [[4]], [[4, 1, 1]], [4], [[4, -1]]])
    def test_drafts_that_cannot_be_are_named(self, tmp_path: Path, drafts: Any) -> None:
        path = made.write(tmp_path, [made.row("small", "qa", 0)]) / "results.jsonl"
        line = json.loads(path.read_text())
        line["trace"][0]["drafts"] = drafts
        path.write_text(json.dumps(line) + "\n")
        with pytest.raises(SteerError, match=r"results\.jsonl.*drafts"):
            load([tmp_path])


class TestFigures:
    def test_tokens_a_pass_and_what_stayed(self, tmp_path: Path) -> None:
        found = results(tmp_path)
        figures = measure_drafts(found, boot(found), None)
        assert list(figures) == drafting(found) == ["speculative:k=4"]
        a_pass, stayed, drafts = figures["speculative:k=4"]
        assert a_pass.value == pytest.approx(12 / 4)
        assert stayed.value == pytest.approx(7 / 14)
        assert drafts == 24
        assert measure_drafts(found, boot(found), "no such")["speculative:k=4"].drafts == 0

    def test_passes_that_are_not_known_are_not_reckoned_with(self, tmp_path: Path) -> None:
        rows = [drafted("qa", i, large_passes=None if i == 3 else 4) for i in range(6)]
        found = results(tmp_path, *rows)
        a_pass, stayed, _ = measure_drafts(found, boot(found), None)["speculative:k=4"]
        assert a_pass.value != a_pass.value
        assert stayed.value == pytest.approx(0.5)

    def test_by_place_counts_what_the_large_model_came_to(self, tmp_path: Path) -> None:
        """Place 1: all four drafts, three stay. Place 2: three, two stay. 3 and 4: one of one."""
        found = results(tmp_path)
        series = by_place(found, boot(found), "speculative:k=4")
        assert list(series.x) == [1, 2, 3, 4]
        assert [y.value for y in series.y] == pytest.approx([3 / 4, 2 / 3, 1, 1])
        assert list(series.n) == [24, 18, 6, 6]

    def test_lengths_are_shares_of_all_drafts(self, tmp_path: Path) -> None:
        found = results(tmp_path)
        series = lengths(found, boot(found), "speculative:k=4")
        assert list(series.x) == [0, 1, 2, 3, 4]
        assert [y.value for y in series.y] == pytest.approx([0.25, 0.25, 0.25, 0, 0.25])
        assert list(series.n) == [6, 6, 6, 0, 6]

    def test_a_draft_of_which_nothing_stayed_is_one(self, tmp_path: Path) -> None:
        step = StepRecord("large", "a", 1, drafts=((3, 0),))
        found = results(tmp_path, *(drafted("qa", i, trace=[step]) for i in range(6)))
        series = lengths(found, boot(found), "speculative:k=4")
        assert (list(series.x), series.y[0].value) == ([0], 1)
        assert list(by_place(found, boot(found), "speculative:k=4").x) == [1]

    def test_drafts_of_any_length_are_drawn(self, tmp_path: Path) -> None:
        """A file may say so much that no table of all places would fit in memory."""
        step = StepRecord("large", "a", 1, drafts=((2**50, 2**49), (2**50, 1)))
        found = results(tmp_path, *(drafted("qa", i, trace=[step]) for i in range(6)))
        places, kept = (f(found, boot(found), "speculative:k=4") for f in (by_place, lengths))
        assert (places.x[-1], kept.x[-1]) == (64, 64)
        assert [y.value for y in places.y[:3]] == pytest.approx([1, 0.5, 1])
        assert (kept.y[1].value, kept.y[64].value) == (0.5, 0.5)

    def test_a_drafted_control_is_no_control(self, tmp_path: Path) -> None:
        routers = ["large:draft=4", "large", "random:share=0.5:draft=4", "random:share=0.5"]
        rows = [made.row(router, "qa", 0) for router in routers]
        found = load([made.write(tmp_path, rows, made.settings(routers))])
        assert [found.kind(r) for r in routers] == ["routed", "large", "routed", "random"]
        assert found.alone("large") == "large"


class TestSummary:
    def test_columns_stand_where_a_router_drafts(self) -> None:
        plain = [made.row("large", "qa", i) for i in range(3)]
        without, both = (markdown(summarise([*plain, *more])) for more in ([], [drafted("qa", 0)]))
        assert "drafts kept" not in without
        lines = [line for line in both.splitlines() if line.startswith("|")]
        assert lines[0].endswith("| s | tokens a large pass | drafts kept % |")
        (own,) = {line for line in lines if line.startswith("| speculative")}
        assert own.endswith("| 3.00 | 50.0 |")
        assert all(line.endswith("|  |  |") for line in lines if line.startswith("| large"))
        assert len({line.count("|") for line in lines}) == 1

    def test_figures_of_a_router_without_drafts_are_none(self) -> None:
        (record, _) = summarise([made.row("large", "qa", 0, large_passes=7)])
        assert (record["tokens_per_large_pass"], record["drafts_stayed"]) == (None, None)


class TestPage:
    def test_shows_drafts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made.leave_pictures_blank(monkeypatch)
        report = build(results(tmp_path), resamples=100)
        names = {picture.name for picture in report.pictures}
        assert {"drafts-by-place", "draft-lengths"} <= names
        assert 'href="#drafts"' in report.page
        assert 'id="drafts"' in report.page
        cells = re.findall(r'data-label="(tokens a pass|drafts kept, %)"><b>(.*?)</b>', report.page)
        assert cells == [
            *([("tokens a pass", "-"), ("drafts kept, %", "-")] * 2),
            *[("tokens a pass", "3.00"), ("drafts kept, %", "50.0")],
        ]
        (numbers,) = (r["drafts"] for r in report.numbers[0]["routers"][2:])
        assert numbers["verified"] == 24
        assert numbers["stayed"][0] == pytest.approx(0.5)
        assert '"drafts":[[4,4],[4,1]]' in report.page

    def test_without_drafts_says_nothing_of_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made.leave_pictures_blank(monkeypatch)
        report = build(load([made.write(tmp_path, n=2)]), resamples=100)
        assert "#drafts" not in report.page
        assert "tokens a pass" not in report.page
        assert {r["drafts"] for r in report.numbers[0]["routers"]} == {None}


class TestStyles:
    @pytest.mark.parametrize(
        ("described", "name"),
        [
            ("speculative:k=auto", "speculative"),
            ("speculative:k=4:accept=typical:eps=0.2", "speculative:accept=typical"),
            ("bild:fallback=0.6:rollback=3", "bild"),
            ("both-sides:sure=0.9:keep=-2", "both-sides"),
            ("both-sides:part=8:sure=0.9:accept=fly", "both-sides:part:accept=fly"),
            ("first-token:threshold=0.5:draft=4", "first-token:draft"),
            ("steer:gamma=0.6 on 1a2b", "steer"),
            ("mine:Router:share=0.5", "mine:Router"),
        ],
    )
    def test_family(self, described: str, name: str) -> None:
        assert family(described) == name

    def test_a_family_has_one_colour_and_a_router_one_marker_of_it(self) -> None:
        routers = ["speculative:k=4", "bild", "speculative:k=auto", "s", "foreal", "s2"]
        found = styles(
            [("large", "large"), *((r, "routed") for r in routers)],
            {"s": "speculative:k=4:accept=fly", "s2": "speculative:k=8:accept=fly"},
        )
        colour = {name: style.colour for name, style in found.items()}
        assert colour["speculative:k=4"] == colour["speculative:k=auto"] == "r0"
        assert colour["s"] == colour["s2"] == "r2"
        assert len({colour[r] for r in ("speculative:k=4", "bild", "s", "foreal")}) == 4
        assert len({style.marker for style in found.values()}) == len(found)

    @pytest.mark.parametrize("families", [1, 3, 7])
    def test_no_two_of_forty_look_alike(self, families: int) -> None:
        names = [(f"f{i % families}:share={i}", "routed") for i in range(40)]
        assert len(set(styles(names).values())) == 40
