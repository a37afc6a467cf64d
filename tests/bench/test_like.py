"""`steer bench kernels --like`: the cases of a file, with its times beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from steer_decode.bench.kernels.like import read_like
from steer_decode.bench.kernels.plan import CLOCKS, KernelPlan
from steer_decode.bench.kernels.report import EARLIER, markdown, tables
from steer_decode.cli import app
from steer_decode.errors import SteerError
from typer.testing import CliRunner

SHORT = ["--seconds", "0.01", "--no-compile"]
ROW = {"op": "logit_stats", "dtype": "float32", "batch": 2, "vocab": 70, "k": 3}
PLANS = Path(__file__).parents[2] / "benchmarks" / "plans"


def bench(*args: object) -> Any:
    return CliRunner().invoke(app, ["bench", "kernels", *map(str, args)])


def written(folder: Path, rows: Any) -> Path:
    file = folder / "rows.json"
    file.write_text(json.dumps(rows))
    return file


def test_the_cases_of_a_run_are_measured_again_beside_its_times(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    tiny = ["--batches", "1,3", "--vocabs", "64,100", "--dtypes", "bfloat16", "--k", "5"]
    sampled = ["--samplings", "plain,top_k=50"]
    assert bench(*tiny, *sampled, *SHORT, "--json", first).exit_code == 0
    result = bench("--like", first, *SHORT, "--json", second)
    assert result.exit_code == 0, result.output
    before, after = (json.loads(file.read_text()) for file in (first, second))
    what = ("op", "dtype", "batch", "vocab", "k", "sampling", "threads", "clock", "peer")
    assert [[row[key] for key in what] for row in after] == [
        [row[key] for key in what] for row in before
    ]
    assert [row["earlier_us"] for row in after] == [row["median_us"] for row in before]
    assert all(EARLIER in line for line in result.stdout.splitlines() if line.startswith("| dtype"))


def test_the_results_of_this_repository_have_times() -> None:
    """The file is older than clocks and samplings."""
    (file,) = (PLANS.parent / "results" / "cpu").glob("amd-epyc-zen4-2026-11-24.json")
    first = json.loads(file.read_text())[0]
    row = {**first, "sampling": None, "clock": "host", "median_us": 1.0}
    assert read_like(file, "cpu").beside(row)["earlier_us"] == first["median_us"]


def test_a_plan_has_no_times(tmp_path: Path) -> None:
    result = bench("--like", written(tmp_path, [ROW]), *SHORT, "--json", tmp_path / "new.json")
    assert result.exit_code == 0, result.output
    assert {row["earlier_us"] for row in json.loads((tmp_path / "new.json").read_text())} == {None}


@pytest.mark.parametrize("width", [None, 70, 200])
def test_the_table_says_how_many_times_faster_ours_is(width: int | None) -> None:
    row = {**ROW, "backend": "b", "sampling": None, "threads": 1, "clock": "events", "gbps": 1.0}
    rows = [
        {**row, "median_us": 2.0, "earlier_us": 5.0, "peer": "torch", "peer_us": 3.0, "ratio": 1.5},
        {**row, "batch": 4, "median_us": 2.0, "earlier_us": None, "peer": "torch", "peer_us": 3.0,
         "ratio": 1.5},
    ]  # fmt: skip
    ((head, lines),) = tables(rows, width).values()
    assert [line[head.index(EARLIER)] for line in lines] == ["5.0 (2.50x)", ""]
    assert EARLIER in markdown(rows, "title")


def test_the_plan_for_a_card_is_by_all_clocks_and_on_the_device_that_is_there() -> None:
    earlier = read_like(PLANS / "gpu.json", "cuda")
    assert list(earlier.clocks) == list(CLOCKS)
    assert {case.device for case in earlier.cases} == {"cuda"}
    assert {case.op for case in earlier.cases} == set(KernelPlan.ops)
    assert not earlier.found


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"op": "rm"}, "[0].op: must be one of 'logit_stats'"),
        ({"dtype": "float64"}, "[0].dtype: must be one of 'float32'"),
        ({"batch": 0}, "[0].batch: must be a whole number in [1, 65,536], got 0"),
        ({"batch": 10**9}, "[0].batch"),
        ({"vocab": None}, "vocab of logit_stats must be a number, got None"),
        ({"k": None}, "k of logit_stats must be a number, got None"),
        ({"k": 65}, "[0].k"),
        ({"k": 64, "vocab": 63}, "k must be at most vocab, got 64 of 63"),
        ({"batch": 2**16, "vocab": 2**22}, "batch times vocab must be at most 1,073,741,824"),
        ({"op": "kv_append_"}, "vocab of kv_append_ must be null, got 70"),
        ({"op": "step_update_"}, "k of step_update_ must be null, got 3"),
        ({"clock": "sundial"}, "[0].clock"),
        ({"op": "sample_logits", "sampling": "top_p=2"}, "[0].sampling"),
        ({"median_us": -1}, "[0].median_us"),
    ],
)
def test_a_row_that_cannot_be_measured(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SteerError) as error:
        read_like(written(tmp_path, [{**ROW, **row}]), "cpu")
    assert said in str(error.value)
    assert "rows.json" in str(error.value)


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([], [], "must be a list of 1 or more, got 0"),
        ({"op": "logit_stats"}, [], "must be a list"),
        ([ROW], ["--ops", "logit_stats"], "--like has the cases to measure: leave out --ops"),
        ([ROW], ["--k", "3"], "leave out --k"),
        ([ROW], ["--quick"], "leave out --quick"),
    ],
)
def test_what_is_refused(rows: Any, options: list[str], said: str, tmp_path: Path) -> None:
    result = bench("--like", written(tmp_path, rows), *options)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = bench("--like", tmp_path / "none.json")
    assert result.exit_code == 2
    assert "none.json" in result.stderr
