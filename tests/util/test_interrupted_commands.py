"""Ctrl-C and SIGTERM at any moment of whole commands, with workers and without."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.preloaded import forked

linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")


PROGRAM = Path(__file__).parents[1] / "support" / "interrupted.py"


def outcomes(folder: Path, jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    asked = folder / "jobs.json"
    asked.write_text(json.dumps(list(jobs)))
    with forked([str(PROGRAM), str(folder), str(asked)]) as program:
        out, err = program.communicate(timeout=3600)
    assert program.returncode == 0, err
    return json.loads(out)


def check_ended(outcome: dict[str, Any], number: int = signal.SIGINT) -> str:
    """That it ended by ``number`` with one sentence and left nothing; what was told."""
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert outcome["status"] == 128 + number, outcome
    assert outcome["left"] == 0, outcome
    said = [line for line in outcome["stderr"].splitlines() if line.startswith(f"steer: {word}")]
    assert len(said) == 1, outcome
    assert "Traceback" not in outcome["stderr"]
    return said[0]


def evaluation(out: Path, workers: int = 2) -> list[str]:
    asked = ["--domains", "math", "--n", "3", "--cohort", "1", "--routers", "small"]
    return ["eval", *asked, "--workers", str(workers), "--out", str(out)]


@linux
@pytest.mark.slow
def test_ctrl_c_while_the_workers_are_forked(tmp_path: Path) -> None:
    moments: list[dict[str, Any]] = [
        {"fork": 1},
        {"fork": 2},
        {"fork": 2, "taps": 3},
        {"fork": 1, "signal": signal.SIGTERM},
        # As whoever calls the functions has it.
        {"fork": 1, "listens": False},
        {"fork": 2, "taps": 3, "listens": False},
    ]
    jobs = [
        {"args": evaluation(tmp_path / str(i)), "signal": signal.SIGINT, **moment}
        for i, moment in enumerate(moments)
    ]
    for job, outcome in zip(jobs, outcomes(tmp_path, jobs), strict=True):
        told = check_ended(outcome, job["signal"])
        assert told.endswith("the same command goes on")
        assert "0 of 3 answers are in" in told


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("taps", "times"),
    [(1, 20), (2, 20), *(pytest.param(n, 50, marks=pytest.mark.exhaustive) for n in (1, 2))],
)
def test_ctrl_c_at_any_moment_of_workers_that_answer(tmp_path: Path, taps: int, times: int) -> None:
    (whole,) = outcomes(tmp_path, [{"args": evaluation(tmp_path / "whole"), "signal": 2}])
    assert (whole["status"], whole["left"]) == (0, 0)
    # The first calls are those that begin to listen.
    moments = [60 + i * whole["calls"] // times for i in range(times)]
    jobs = [
        {
            "args": evaluation(tmp_path / str(moment)),
            "signal": signal.SIGINT,
            "call": moment,
            "taps": taps,
        }
        for moment in moments
    ]
    for moment, outcome in zip(moments, outcomes(tmp_path, jobs), strict=True):
        if outcome["status"] == 0:  # its last calls vary with how often the parent has to wait
            assert moment > 0.9 * whole["calls"], outcome
            continue
        told = check_ended(outcome)
        results = tmp_path / str(moment) / "results.jsonl"
        if "answers are in" in told:
            rows = results.read_text().splitlines()
            assert f": {len(rows)} of 3 answers" in told
            assert all(json.loads(row)["router"] == "small" for row in rows)
