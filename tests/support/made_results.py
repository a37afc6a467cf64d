"""Made-up results of evaluations, quick to make and with known figures."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from steer_decode.evaluation.results import ResultsFolder
from steer_decode.evaluation.rows import Asked, ResultRow, StepRecord

ROUTERS = ("small", "large", "random:share=0.5", "steer", "first-token")
_COST = {"small": 1.0, "large": 10.0, "random:share=0.5": 7.0, "steer": 5.5, "first-token": 4.0}
_ACCURACY = {"small": 0.4, "large": 0.9, "random:share=0.5": 0.6, "steer": 0.8, "first-token": 0.5}


def settings(routers: Sequence[str] = ROUTERS, **more: Any) -> dict[str, Any]:
    entropy = {"name": "entropy", "higher_is_surer": False}
    max_logit = {"name": "max-logit", "higher_is_surer": True}
    return {
        "pair": "0123456789abcdef",
        "temperature": 0.7,
        "threads": 1,
        "routers": {name: name for name in routers},
        "signals": {n: entropy if n.startswith("first") else max_logit for n in routers},
        "about": {
            "small": {"name": "tiny <small> & co", "parameters": 250_000},
            "large": {"name": "tiny large", "parameters": 3_500_000},
        },
        **more,
    }


def row(router: str, domain: str, problem: int, seed: int = 0, **more: Any) -> ResultRow:
    """One answer of three steps; whether it is right is drawn with the router's own odds."""
    rng = random.Random(f"{router} {domain} {problem} {seed}")
    correct = rng.random() < _ACCURACY.get(router, 0.5)
    writers = {"small": "sss", "large": "lll"}.get(router) or rng.choice(["sls", "lss", "lsl"])
    steps = [
        StepRecord(
            writer="small" if letter == "s" else "large",
            text=f"step {i} of {problem}\n\n",
            tokens=5,
            score=rng.gauss(15 + 2 * correct, 1),
            before=rng.random() if router.startswith("first") else None,
            posterior=rng.random() if router.startswith("steer") else None,
            right=(correct or i < 2) if domain == "math" else None,
        )
        for i, letter in enumerate(writers)
    ]
    if router.startswith("steer") and writers[0] == "l":
        steps.insert(
            0, StepRecord("small", "first try\n\n", 4, 12.0, posterior=0.1, discarded=True)
        )
    cost = _COST.get(router, 5.0)
    values: dict[str, Any] = {
        "correct": correct,
        "flops_paper": cost * 1e6,
        "flops_processed": cost * 2e6,
        "bytes_read": cost * 3e6,
        "seconds": cost / 100,
        "hand_overs": 2 * (router not in ("small", "large")),
        "stop_reason": "eos",
        "trace": steps,
        "difficulty": problem % 5 + 1,
    }
    return ResultRow(router, domain, str(problem), seed, **{**values, **more})


def leave_pictures_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has pages made without drawing, which takes most of their time; for tests of their words."""
    monkeypatch.setattr(
        "steer_decode.evaluation.report.picture.Picture.inline", lambda self: "<svg></svg>"
    )


def write(
    folder: Path,
    rows: Sequence[ResultRow] | None = None,
    made_with: Mapping[str, Any] | None = None,
    *,
    n: int = 10,
    domains: Sequence[str] = ("math", "qa"),
    seeds: Sequence[int] = (0, 1),
) -> Path:
    """A folder as `steer eval` leaves it."""
    if rows is None:
        rows = [
            row(router, domain, problem, seed)
            for domain in domains
            for problem in range(n)
            for seed in seeds
            for router in ROUTERS
        ]
    asked = {(r.domain, r.problem): r.difficulty for r in rows}
    problems = [
        Asked(d, p, f"Question {p} of {d}?", f"{p}", level) for (d, p), level in asked.items()
    ]
    results = ResultsFolder(folder, made_with or settings(), problems)
    for each in rows:
        results.add(each)
    results.close()
    return folder
