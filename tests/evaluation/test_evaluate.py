"""Evaluation: results that survive interruptions, and the arithmetic of the summary."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from steer_decode import AlwaysLarge, AlwaysSmall, Pair, RandomShare, SteerCohort, SteerError
from steer_decode.cli import app
from steer_decode.demo import pair_paths
from steer_decode.evaluation.evaluate import Evaluation, run, settings, with_controls
from steer_decode.evaluation.rows import ResultRow, StepRecord
from steer_decode.evaluation.summary import markdown, summarise
from steer_decode.evaluation.tasks import Task, demo_tasks
from support.preloaded import Launch
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair.from_pretrained(*pair_paths())


def row(
    router: str, index: int, correct: bool, large_tokens: int, domain: str = "math", seed: int = 0
) -> ResultRow:
    trace = [StepRecord("small", "one\n\n", 10 - large_tokens, 1.5, right=False)]
    trace.append(StepRecord("large", "answer 3", large_tokens, posterior=0.25, discarded=False))
    return ResultRow(
        router=router,
        domain=domain,
        problem=str(index),
        seed=seed,
        correct=correct,
        flops_paper=1e6,
        flops_processed=2e6,
        bytes_read=3e6,
        seconds=0.5,
        hand_overs=1,
        stop_reason="eos",
        trace=trace,
        difficulty=1,
    )


class TestSummary:
    ROWS = (
        [row("small", i, i < 2, 0) for i in range(10)]
        + [row("random:share=0.5", i, i < 4, 5) for i in range(10)]
        + [row("large", i, i < 10, 10) for i in range(10)]
        + [row("steer", i, i < 6, 6) for i in range(10)]
        + [row("steer", i, i < 1, 4, domain="qa") for i in range(2)]
    )

    def records(self, curve: tuple[str, ...]) -> dict[tuple[str, str], dict[str, Any]]:
        summary = summarise(self.ROWS, curve=curve, order=["steer", "small"])
        return {(record["router"], record["domain"]): record for record in summary}

    def test_random_is_read_off_at_the_routers_own_share(self) -> None:
        records = self.records(("small", "large", "random:share=0.5"))
        # From (0.5, 0.4) to (1, 1): a fifth of the way at 0.6.
        assert records["steer", "math"]["random_accuracy_at_share"] == pytest.approx(0.52)
        assert records["small", "math"]["random_accuracy_at_share"] == pytest.approx(0.2)
        assert records["large", "math"]["random_accuracy_at_share"] == pytest.approx(1.0)

    def test_without_random_runs_there_is_no_such_figure(self) -> None:
        assert self.records(())["steer", "math"]["random_accuracy_at_share"] is None
        assert "random %" in markdown(summarise(self.ROWS))

    def test_all_is_the_mean_over_problems(self) -> None:
        record = self.records(())["steer", "all"]
        assert record["n"] == 12
        assert record["accuracy"] == pytest.approx(7 / 12)
        assert record["large_token_share"] == pytest.approx(68 / 120)
        assert record["accuracy_se"] == pytest.approx((7 / 12 * 5 / 12 / 12) ** 0.5)
        assert record["flops_processed"] == pytest.approx(2e6)
        # 58.3 per cent at 1e6 FLOPs, which are 1e-6 of those that the papers count in.
        assert record["accuracy_per_tflop"] == pytest.approx(100 * 7 / 12 / 1e-6)

    def test_seeds_of_a_problem_count_as_one(self) -> None:
        twice = [row("steer", i, i < 2, 5, seed=seed) for i in range(4) for seed in (0, 1)]
        record = summarise(twice)[0]
        assert (record["n"], record["answers"]) == (4, 8)
        assert record["accuracy_se"] == pytest.approx(0.25)

    def test_all_comes_first_and_routers_in_the_order_asked_for(self) -> None:
        summary = summarise(self.ROWS, order=["steer", "small"])
        assert [r["domain"] for r in summary[:4]] == ["all"] * 4
        assert [r["router"] for r in summary[:2]] == ["steer", "small"]


class TestRun:
    def evaluation(self, pair: Pair) -> Evaluation:
        routers = {"small": AlwaysSmall(), "large": AlwaysLarge(), "half": RandomShare(0.5)}
        tasks = demo_tasks(["math"], 2)
        return Evaluation(pair, routers, tasks, {"max_new_tokens": 48}, seeds=(5, 6))

    @pytest.mark.slow
    def test_workers_do_not_change_the_answers(self, pair: Pair) -> None:
        evaluation = self.evaluation(pair)
        one = {row.key: row for row in run(evaluation, evaluation.groups())}
        two = {row.key: row for row in run(evaluation, evaluation.groups(), workers=2)}
        assert set(one) == set(evaluation.jobs())
        assert {key: row.text for key, row in one.items()} == {
            key: row.text for key, row in two.items()
        }
        assert one["large", "math", "0", 5].large_tokens == one["large", "math", "0", 5].tokens

    @pytest.mark.slow
    def test_cohorts_do_not_change_the_answers(self, pair: Pair) -> None:
        evaluation = self.evaluation(pair)
        together = replace(evaluation, cohort=2)
        assert [len(group) for group in together.groups()] == [2] * 6
        one = {row.key: row for row in run(evaluation, evaluation.groups())}
        two = {row.key: row for row in run(together, together.groups())}
        assert {key: row.text for key, row in one.items()} == {
            key: row.text for key, row in two.items()
        }
        # What is there already is not asked again.
        done = set(list(two)[::2])
        assert sorted(key for group in together.groups(done) for key in group) == sorted(
            set(two) - done
        )

    def test_a_cohort_that_is_judged_together_is_run_whole(self, pair: Pair) -> None:
        tasks = demo_tasks(["math"], 12)
        evaluation = Evaluation(
            pair, {"s": SteerCohort()}, tasks, {"max_new_tokens": 20}, cohort=12
        )
        evaluation.check()
        keys = evaluation.jobs()
        assert evaluation.groups(keys[:3]) == [keys]
        assert evaluation.groups(keys) == []
        with pytest.raises(SteerError, match=r"router 's' judges .* 4 at a time are too few"):
            replace(evaluation, cohort=4).check()

    def test_a_step_is_kept_with_what_was_measured(self, pair: Pair) -> None:
        evaluation = self.evaluation(pair)
        (row,) = evaluation.answer(evaluation.jobs()[:1])
        assert row.key == ("small", "math", "0", 5)
        assert all(step.score is not None for step in row.trace)
        assert {step.right for step in row.trace} <= {True, False}
        assert row.text == "".join(step.text for step in row.kept)
        assert ResultRow.from_dict(json.loads(json.dumps(row.to_dict()))) == row

    def test_seeds_and_problems_have_draws_of_their_own(self, pair: Pair) -> None:
        evaluation = self.evaluation(pair)
        rows = [
            row
            for job in evaluation.jobs()
            if job.router == "half"
            for row in evaluation.answer([job])
        ]
        writers = {tuple(step.writer for step in row.trace) for row in rows}
        assert len(writers) == len(rows) == 4

    def test_a_checker_that_fails_is_recorded_and_does_not_end_the_run(self, pair: Pair) -> None:
        def check(text: str) -> bool:
            raise ZeroDivisionError("by zero")

        tasks = [Task("mine", "a", "Compute 1 +1 ?", "2", check)]
        tasks.append(Task("mine", "b", "Compute 1 +1 ?", "2", lambda text: None))  # type: ignore[arg-type,return-value]
        rows = list(run(e := Evaluation(pair, {"small": AlwaysSmall()}, tasks), e.groups()))
        assert [row.correct for row in rows] == [False, False]
        assert rows[0].error == "ZeroDivisionError: by zero"
        assert "answered None" in rows[1].error

    def test_a_prompt_that_cannot_be_asked_is_named_before_the_work(self, pair: Pair) -> None:
        tasks = [Task("mine", "long", "Compute " * 999, "2", bool)]
        with pytest.raises(SteerError, match=r"problem mine:long: prompt is \d+ tokens long"):
            Evaluation(pair, {"small": AlwaysSmall()}, tasks).check()

    def test_settings_tell_routers_and_options_apart(self, pair: Pair) -> None:
        kept = settings(self.evaluation(pair), {"small": "a", "large": "b"})
        assert kept["routers"]["half"] == "random:share=0.5"
        assert kept["max_new_tokens"] == 48
        assert kept["pair"] == pair.fingerprint
        assert kept["signals"]["half"] == {"name": "max-logit", "higher_is_surer": True}
        assert kept["about"]["small"] == {
            "name": "a",
            "parameters": pair.shapes["small"].parameters,
        }

    def test_controls_are_both_models_and_the_shares_between(self) -> None:
        assert list(with_controls({}, [0.3])) == ["small", "large", "random:share=0.3"]


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(
    tmp_path: Path, launch: Launch
) -> None:
    command = ["eval", "--domains", "math,qa", "--n", "8"]
    command += ["--routers", "small,random", "--random-shares", "0.5", "--out", str(tmp_path)]
    process = launch(["-m", "steer_decode", *command])
    results = tmp_path / "results.jsonl"
    while process.poll() is None and not (results.exists() and results.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "of 48 answers are in" in error.splitlines()[-1]
    done = [json.loads(line) for line in results.read_text().splitlines()]
    assert 0 < len(done) < 48

    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert rows[: len(done)] == done
    assert len(rows) == len({(r["router"], r["domain"], r["problem"]) for r in rows}) == 48
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {r["router"] for r in summary} == {"small", "large", "random:share=0.5"}
    assert {r["domain"] for r in summary} == {"math", "qa", "all"}
    assert all(r["random_accuracy_at_share"] is not None for r in summary)
    assert (tmp_path / "summary.md").read_text().startswith("### all, n = 16")
