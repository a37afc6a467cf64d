"""Sizes of cohort beside each other: what is compared, and what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from steer_decode import SteerError
from steer_decode.cli import app
from steer_decode.evaluation.cohort_sizes import compare, draw, markdown, records
from support.made_results import row, settings, write
from typer.testing import CliRunner

ROUTERS = ("small", "large", "steer")


def folder(path: Path, cohort: int, lucky: int, n: int = 12) -> Path:
    """Made-up results in which `steer` is right on ``lucky`` of ``n`` problems."""
    rows = [row(r, "math", p) for r in ("small", "large") for p in range(n)]
    rows += [row("steer", "math", p, correct=p < lucky) for p in range(n)]
    return write(path, rows, settings(ROUTERS, cohort=cohort))


@pytest.mark.slow
def test_each_size_has_its_own_figures(tmp_path: Path) -> None:
    folders = {
        16: folder(tmp_path / "a", 16, 6),
        32: folder(tmp_path / "b", 32, 9),
    }
    sizes = compare(folders, resamples=100)
    found = {(r["router"], r["cohort"]): r for r in records(sizes)}
    assert found["steer", 16]["accuracy"][0] == 0.5
    assert found["steer", 32]["accuracy"][0] == 0.75
    assert found["small", 16]["accuracy"] == found["small", 32]["accuracy"]
    gain = found["steer", 32]["above_mix"]["flops_paper"][0]
    assert gain - found["steer", 16]["above_mix"]["flops_paper"][0] == pytest.approx(0.25)
    table = markdown(sizes)
    assert "| steer | 16 | 50.0 (" in table
    assert "| steer | 32 | 75.0 (" in table
    assert table.count("| small | any |") == table.count("| large | any |") == 1
    draw(sizes, tmp_path / "g.svg")
    assert "answers judged together" in (tmp_path / "g.svg").read_text()


def test_other_problems_do_not_compare(tmp_path: Path) -> None:
    folders = {16: folder(tmp_path / "a", 16, 6), 32: folder(tmp_path / "b", 32, 6, n=11)}
    with pytest.raises(SteerError, match="answers other problems or seeds"):
        compare(folders, resamples=100)


@pytest.mark.slow
def test_one_command_runs_all_sizes_and_goes_on(tmp_path: Path) -> None:
    command = ["eval", "--domains", "math", "--n", "12", "--max-new-tokens", "24"]
    command += ["--cohort", "10,all", "--routers", "small,large,steer-cohort"]
    command += ["--out", str(tmp_path)]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    data = json.loads((tmp_path / "group-sizes.json").read_text())
    assert [(r["router"], r["cohort"]) for r in data] == [
        (router, size) for size in (10, 12) for router in ("small", "large", "steer-cohort")
    ]
    for size in (10, 12):
        kept = json.loads((tmp_path / f"cohort-{size}" / "settings.json").read_text())
        assert kept["cohort"] == size
    lines = (tmp_path / "cohort-10" / "results.jsonl").read_text()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (tmp_path / "cohort-10" / "results.jsonl").read_text() == lines


@pytest.mark.parametrize(
    ("cohort", "message"),
    [
        ("8,x", "got 'x'"),
        ("0", "got '0'"),
        (",", "--cohort is empty"),
        ("4,99", "--cohort 99 is more than the 20 problems of a domain"),
        ("8,12", "judges the steps of a cohort together, and 8 at a time are too few"),
    ],
)
def test_sizes_that_cannot_be_had(cohort: str, message: str) -> None:
    command = ["eval", "--n", "20", "--cohort", cohort, "--routers", "steer-cohort"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code != 0
    assert message in " ".join(refused.stderr.split())
