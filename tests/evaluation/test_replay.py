"""Replayed cascades against cascades that are run: the same answers, at the same cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from steer_decode import AlwaysLarge, AlwaysSmall, Pair, Policy, Router, SteerError, parse_policy
from steer_decode.cli import app
from steer_decode.core.signals import SIGNALS
from steer_decode.evaluation.evaluate import Evaluation, settings
from steer_decode.evaluation.replay.cascades import (
    COSTS,
    Recorded,
    cascade,
    load,
    needs_a_run,
    threshold_for,
)
from steer_decode.evaluation.replay.plot import draw
from steer_decode.evaluation.replay.sweep import sweep
from steer_decode.evaluation.results import ResultsFolder
from steer_decode.evaluation.rows import ResultRow
from steer_decode.evaluation.step_scores import step_scores
from steer_decode.evaluation.tasks import Task
from steer_decode.policies.query_cascade import OVER, summed_up
from support.made_results import settings as made_settings
from support.made_results import write
from support.tiny import make_pair, prompt_text
from typer.testing import CliRunner

ANSWERS = 8


@pytest.fixture(scope="module")
def pair() -> Pair:
    made = make_pair("llama", 0)
    with torch.no_grad():  # most answers of the small model are to end by themselves
        made.small.get_output_embeddings().weight[1] *= 3
    return made


def evaluation(pair: Pair, routers: Mapping[str, Policy], **more: Any) -> Evaluation:
    def right(text: str) -> bool:
        return len(text) % 2 == 0

    tasks = [Task("ab"[i % 2], str(i), prompt_text(i, 5 + i), "", right) for i in range(ANSWERS)]
    options = {"max_new_tokens": 24, **more.pop("options", {})}
    return Evaluation(pair, routers, tasks, options, **more)


def run(e: Evaluation) -> dict[tuple[str, str, int], ResultRow]:
    rows = [row for group in e.groups() for row in e.answer(group)]
    return {(row.domain, row.problem, row.seed): row for row in rows}


def saved(folder: Path, pair: Pair, **more: Any) -> Path:
    """The control runs, as `steer eval` keeps them."""
    e = evaluation(pair, {"small": AlwaysSmall(), "large": AlwaysLarge()}, **more)
    kept = settings(e, cohort=e.cohort)
    results = ResultsFolder(folder, kept, e.problems())
    for group in e.groups():
        for row in e.answer(group):
            results.add(row)
    results.close()
    return folder


@pytest.fixture(scope="module")
def one_by_one(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("one"), pair)


def test_scores_of_all_signals_are_those_of_the_loop(pair: Pair) -> None:
    for name, signal in SIGNALS.items():
        policy = AlwaysSmall()
        policy.signal = signal
        trace = Router(pair, policy).generate(prompt_text(2), max_new_tokens=60).trace
        assert len(trace.steps) > 2
        for step, scores in zip(trace.steps, step_scores(pair, trace), strict=True):
            assert scores[name] == pytest.approx(step.score, abs=1e-5)
            assert set(scores) == set(SIGNALS)


def test_scores_of_long_answers_are_read_in_parts(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = Router(pair, AlwaysSmall()).generate(prompt_text(2), max_new_tokens=60).trace
    whole = step_scores(pair, trace)
    monkeypatch.setattr("steer_decode.evaluation.step_scores.PART", 1)
    for a, b in zip(whole, step_scores(pair, trace), strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    mixed = Router(pair, AlwaysLarge()).generate(prompt_text(2), max_new_tokens=60).trace
    with pytest.raises(ValueError, match="small model wrote alone"):
        step_scores(pair, mixed)


def compare(
    recorded: Recorded, rows: Sequence[ResultRow], spec: Sequence[str], exact: bool
) -> float:
    """A replayed cascade with the rows of a run of it; returns the share that was sent."""
    signal, over, threshold = spec[0], spec[1], float(spec[2])
    outcome = cascade(recorded, signal, over, threshold)
    for i, row in enumerate(rows):
        assert bool(outcome.right[i]) == row.correct
        assert outcome.costs["flops_paper"][i] == row.flops_paper
        assert outcome.tokens[i] == row.tokens
        assert outcome.large_tokens[i] == row.large_tokens
        assert outcome.discarded[i] == row.discarded_tokens
        if exact:
            assert outcome.costs["flops_processed"][i] == row.flops_processed
            assert outcome.costs["bytes_read"][i] == row.bytes_read
    return float(outcome.sent.mean())


@pytest.mark.parametrize("over", OVER)
@pytest.mark.few(1)
def test_a_replayed_cascade_is_the_cascade(pair: Pair, one_by_one: Path, over: str) -> None:
    recorded = load(one_by_one)
    specs, routers = {}, {}
    for signal, share in (("max-logit", 0.3), ("entropy", 0.6)):
        threshold = threshold_for(recorded, signal, over, share)
        name = f"corea:signal={signal}:over={over}:threshold={threshold!r}"
        specs[name], routers[name] = (signal, over, str(threshold)), parse_policy(name)
    e = evaluation(pair, routers)
    rows = [row for group in e.groups() for row in e.answer(group)]
    shares = set()
    for name, spec in specs.items():
        by_key = {(r.domain, r.problem): r for r in rows if r.router == name}
        mine = [by_key[key] for key in recorded.names]
        shares.add(compare(recorded, mine, spec, exact=True))
    assert len(shares) == 2
    assert 0 < min(shares) < max(shares) < 1


def test_in_a_cohort_all_but_shared_passes_is_exact(pair: Pair, tmp_path: Path) -> None:
    recorded = load(saved(tmp_path, pair, cohort=4))
    threshold = threshold_for(recorded, "margin", "min", 0.5)
    name = f"corea:signal=margin:over=min:threshold={threshold!r}"
    by_key = run(evaluation(pair, {name: parse_policy(name)}, cohort=4))
    rows = [by_key[(*key, 0)] for key in recorded.names]
    assert 0 < compare(recorded, rows, ("margin", "min", str(threshold)), exact=False) < 1
    processed = cascade(recorded, "margin", "min", threshold).costs["flops_processed"]
    for replayed, row in zip(processed, rows, strict=True):
        assert abs(replayed - row.flops_processed) <= 2 * pair.shapes["large"].head


@pytest.mark.slow
def test_a_sampled_answer_of_the_large_model_is_that_of_the_next_seed(
    pair: Pair, tmp_path: Path
) -> None:
    options = {"temperature": 1.0}
    folder = saved(tmp_path / "two", pair, options=options, seeds=(0, 1, 4))
    recorded = load(folder)
    lines = (folder / "results.jsonl").read_text().splitlines()
    larges = {
        (r.domain, r.problem, r.seed): r
        for r in (ResultRow.from_dict(json.loads(line)) for line in lines)
        if r.router == "large"
    }
    # Three seeds a problem, in order: 0, 1, 4 of the small model beside 1, 4, 0 of the large one.
    expected = [larges[(*recorded.names[i], (1, 4, 0)[i % 3])].tokens for i in range(3 * ANSWERS)]
    assert recorded.tokens["large"].tolist() == expected
    with pytest.raises(SteerError, match=r"sampled with one seed.*--seeds 0,1"):
        load(saved(tmp_path / "one", pair, options=options))


def test_what_is_cut_off_is_not_judged(pair: Pair, tmp_path: Path) -> None:
    recorded = load(saved(tmp_path, pair, options={"max_new_tokens": 3}))
    assert not recorded.ended.all()
    everything = cascade(recorded, "margin", "min", np.inf)
    assert (everything.sent == recorded.ended).all()
    by_first = cascade(recorded, "margin", "first", np.inf)
    assert (by_first.sent == recorded.began).all()


def test_equal_scores_go_together_and_no_score_goes_to_the_large_model(one_by_one: Path) -> None:
    recorded = load(one_by_one)
    n = len(recorded.names)
    scores = np.array([0.5] * (n - 3) + [0.9, 0.9, np.nan])
    known = replace(
        recorded,
        confidences={("margin", "mean"): scores, ("entropy", "mean"): scores},
        ended=np.ones(n, dtype=bool),
    )
    assert threshold_for(known, "margin", "mean", 0.6) == pytest.approx(0.7)
    assert cascade(known, "margin", "mean", 0.7).sent.tolist() == [True] * (n - 3) + [
        False, False, True,
    ]  # fmt: skip
    # Even a threshold that everybody passes: nothing vouches for an answer without a score.
    assert cascade(known, "margin", "mean", -np.inf).sent.sum() == 1
    # Confidences are entropies with their sign turned; the threshold is an entropy again.
    assert threshold_for(known, "entropy", "mean", 0.6) == pytest.approx(-0.7)


def test_steps_are_summed_up_as_said() -> None:
    each = [0.4, float("nan"), 0.2, 0.9]
    assert summed_up(each, "mean") == pytest.approx(0.5)
    assert summed_up(each, "min") == 0.2
    assert summed_up(each, "first") == 0.4
    assert summed_up(each, "last") == 0.9
    assert all(np.isnan(summed_up([], over)) for over in OVER)
    assert np.isnan(summed_up([float("nan"), 1.0], "first"))


def test_the_sweep_goes_from_one_model_to_both(one_by_one: Path) -> None:
    recorded = load(one_by_one)
    found = sweep(recorded, resamples=100)
    assert len(found.curves) == len(SIGNALS) * len(OVER)
    assert found.exact == ["flops_paper", "flops_processed", "bytes_read"]
    small, large = recorded.costs["small"], recorded.costs["large"]
    for curve in found.curves:
        none, every = curve.points[0], curve.points[-1]
        assert none.sent == 0
        assert none.costs["flops_paper"] == pytest.approx(small["flops_paper"].mean())
        assert none.above_mix["flops_paper"].value == pytest.approx(0)
        # Every judged answer goes: both models are paid for, and what is cut off stays.
        judged = recorded.judged(curve.over)
        assert every.sent == pytest.approx(judged.mean())
        draft = recorded.first if curve.over == "first" else small
        paid = np.where(judged, draft["flops_paper"] + large["flops_paper"], small["flops_paper"])
        assert every.costs["flops_paper"] == pytest.approx(paid.mean())
        assert [p.sent for p in curve.points] == sorted(p.sent for p in curve.points)
        for point in curve.points:
            assert point.accuracy.low <= point.accuracy.value <= point.accuracy.high


@pytest.mark.slow
def test_the_command_needs_no_model_and_says_what_needs_a_run(
    one_by_one: Path, tmp_path: Path
) -> None:
    printed = CliRunner().invoke(app, ["eval", "--replay", str(one_by_one), "--out", str(tmp_path)])
    assert printed.exit_code == 0
    assert "steer-cohort" in printed.stdout
    assert f"--routers ROUTER --out {one_by_one}" in printed.stdout
    data = json.loads((tmp_path / "replay.json").read_text())
    assert data["exact_costs"] == ["flops_paper", "flops_processed", "bytes_read"]
    assert {(c["signal"], c["over"]) for c in data["curves"]} == {
        (s, o) for s in SIGNALS for o in OVER
    }
    for point in data["curves"][3]["points"]:
        parse_policy(point["router"])  # what it would take to run it
        assert set(COSTS) <= set(point)
    assert (tmp_path / "replay.md").read_text().startswith("### 8 problems, 8 answers")
    assert (tmp_path / "replay.svg").stat().st_size > 10_000


@pytest.mark.slow
def test_the_picture_takes_routers_that_were_run(one_by_one: Path, tmp_path: Path) -> None:
    found = sweep(load(one_by_one), resamples=100)
    others = {"somebody": (0.5, dict.fromkeys(COSTS, 1e5))}
    draw(found, tmp_path / "a.svg", others)
    draw(found, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").stat().st_size > (tmp_path / "b.svg").stat().st_size


def test_routers_that_hand_over_inside_an_answer_are_named() -> None:
    said = needs_a_run(Path("here"))
    for name in ("steer", "steer-cohort", "percentile", "first-token", "both-sides", "random"):
        assert f"{name}," in said
    assert "corea" not in said


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"routers": ["small", "steer"]}, "no answers of router 'large' alone"),
        ({"routers": ["small", "large"]}, "no scores by signal, as an older version wrote it"),
    ],
)
def test_folders_that_cannot_be_replayed(
    tmp_path: Path, made: Mapping[str, Any], message: str
) -> None:
    from support.made_results import row

    kept = made_settings(made["routers"])
    rows = [row(r, "math", p, s) for r in made["routers"] for p in range(3) for s in (0, 1)]
    write(tmp_path, rows, kept)
    with pytest.raises(SteerError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "3"], "--n has no meaning with --replay"),
        (["--routers", "steer"], "--routers has no meaning with --replay"),
        (["--temperature", "0.7"], "--temperature has no meaning with --replay"),
    ],
)
def test_options_of_a_run_are_refused(one_by_one: Path, arguments: list[str], message: str) -> None:
    refused = CliRunner().invoke(app, ["eval", "--replay", str(one_by_one), *arguments])
    assert refused.exit_code != 0
    assert message in refused.stderr
