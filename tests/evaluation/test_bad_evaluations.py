"""Evaluations and calibrations that cannot be, or that tell little: refused or said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from steer_decode import Calibration
from steer_decode.cli import app
from steer_decode.cli.calibrate import _doubts
from steer_decode.policies.fitted.mixture import TwoGaussians
from support.made_results import row, settings, write
from typer.testing import CliRunner

CLEAR = TwoGaussians(0.6, 10.0, 1.0, 20.0, 1.0)
OVERLAPPING = TwoGaussians(0.6, 10.0, 4.0, 11.0, 4.0)


def steer(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def said(result: Any) -> str:
    return " ".join(result.stderr.split())


def test_a_calibration_of_too_few_answers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Compute 1 +1 ?\n")
    out = tmp_path / "c.json"
    refused = steer("calibrate", "--prompts", tmp_path / "p.txt", "--out", out)
    assert refused.exit_code != 0
    assert "a mixture needs 10 at least: give more prompts" in said(refused)
    assert not out.exists()


def calibration(small: dict[int, TwoGaussians], large: dict[int, TwoGaussians]) -> Calibration:
    return Calibration(
        "x", "max-logit", {"small": small, "large": large}, {"small": {}, "large": {}}
    )


def test_mixtures_that_tell_little_are_named() -> None:
    whole = dict.fromkeys((0, 1, 2, 3, 4, -1), CLEAR)
    assert CLEAR.separation == 10.0
    assert _doubts(calibration(whole, whole)) == []
    none, overlap, bare = (
        _doubts(calibration(small, whole))
        for small in ({}, {**whole, -1: OVERLAPPING}, {0: CLEAR, 1: CLEAR, 3: CLEAR, -1: CLEAR})
    )
    assert len(none) == len(overlap) == len(bare) == 1
    assert "small model's steps do not separate into two components" in none[0]
    assert "overlap, 0.5 deviations apart" in overlap[0]
    assert "no fit for step 2, 4+ of the small model" in bare[0]


def test_a_router_without_a_mixture_is_named_and_falls_back(tmp_path: Path) -> None:
    """One calibrated on nothing sends every step to the large model, and says so."""
    made = steer(
        "eval", "--domains", "math", "--n", "1", "--routers", "steer", "--out", tmp_path / "a"
    )
    assert made.exit_code == 0
    assert "no mixture" not in said(made)
    pair = json.loads((tmp_path / "a" / "settings.json").read_text())["pair"]
    bare = Calibration(pair, "max-logit", {"small": {}, "large": {}}, {"small": {}, "large": {}})
    bare.save(tmp_path / "bare.json")
    command = ["eval", "--domains", "math", "--n", "1", "--routers", "steer"]
    result = steer(*command, "--calibration", tmp_path / "bare.json", "--out", tmp_path / "b")
    assert result.exit_code == 0
    steps = json.loads((tmp_path / "b" / "results.jsonl").read_text())["trace"]
    assert {step["writer"] for step in steps[1:]} == {"large"}
    n = len(steps)
    assert f"steer: steer: no mixture for {n} of {n} steps" in said(result)


@pytest.mark.slow
def test_a_run_resumed_with_other_settings_names_the_difference(tmp_path: Path) -> None:
    command = ["eval", "--domains", "math", "--n", "1", "--routers", "small", "--out", tmp_path]
    assert steer(*command).exit_code == 0
    lines = (tmp_path / "results.jsonl").read_text()
    for more, difference in (
        (["--temperature", "0.5"], "temperature was 0.0, now 0.5"),
        (["--cohort", "7"], "cohort was 32, now 7"),
        (["--max-new-tokens", "9"], "max_new_tokens was 128, now 9"),
    ):
        refused = steer(*command, *more)
        assert refused.exit_code != 0
        assert difference in said(refused)
    assert (tmp_path / "results.jsonl").read_text() == lines


def test_ids_that_occur_twice_are_refused_before_the_models_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steer_decode.cli.models.Models.load", lambda self: 1 / 0)
    path = tmp_path / "t.jsonl"
    path.write_text('{"prompt": "a", "answer": "2", "id": "x"}\n' * 2)
    refused = steer("eval", "--tasks", path, "--routers", "small", "--out", tmp_path / "r")
    assert refused.exit_code != 0
    assert "id 'x'" in said(refused)
    assert "lines 1 and 2: give each problem an id of its own" in said(refused)


@pytest.mark.parametrize("what", ["KeyError('x')", "SystemExit(3)"])
def test_a_checker_that_raises_ends_nothing_and_is_reported(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checker = f"{what.partition('(')[0].lower()}_checker"  # a module is imported once
    (tmp_path / f"{checker}.py").write_text(f"def check(text, answer):\n    raise {what}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "t.jsonl"
    path.write_text('{"prompt": "Compute 1 +1 ?", "answer": "2", "id": "x"}\n')
    command = ["eval", "--tasks", path, "--checker", f"{checker}:check", "--routers", "small"]
    result = steer(*command, "--out", tmp_path / "r")
    assert result.exit_code == 0
    assert "the checker failed on 1 of 1 answers, which count as wrong; first on t:x" in said(
        result
    )


def test_results_of_two_pairs_do_not_make_one_report(tmp_path: Path) -> None:
    mine = write(tmp_path / "a", [row("small", "math", 0)], settings(["small"]))
    other = write(tmp_path / "b", [row("large", "math", 0)], settings(["large"], pair="f" * 16))
    refused = steer("report", mine, other, "-o", tmp_path / "r.html")
    assert refused.exit_code != 0
    assert "is of another pair than" in said(refused)
    assert "report each pair on its own" in said(refused)
