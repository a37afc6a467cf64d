"""`steer bench kernels` and `make gpu-check`: what they measure, write, and refuse."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode.bench import measure as measure_module
from steer_decode.bench import peers, plot, timer
from steer_decode.bench.plan import OPS, QUICK, Case, Plan
from steer_decode.bench.report import KEYS, markdown, tables
from steer_decode.bench.workload import OURS, PEERS, workload
from steer_decode.cli import app
from typer.testing import CliRunner

TINY = ["--batches", "1,3", "--vocabs", "64,100", "--dtypes", "float32,bfloat16"]
SHORT = ["--seconds", "0.01", "--no-compile"]


def bench(*args: object) -> Any:
    return CliRunner().invoke(app, ["bench", "kernels", *map(str, args)])


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    file = tmp_path / "rows.json"
    result = bench(*TINY, *SHORT, "--json", file)
    assert result.exit_code == 0, result.output
    return json.loads(file.read_text())


class TestRows:
    def test_every_peer_of_every_case_is_a_row(self, rows: list[dict[str, Any]]) -> None:
        plan = Plan(batches=(1, 3), vocabs=(64, 100), dtypes=("float32", "bfloat16"))
        expected = [
            (case.op, case.dtype, case.batch, case.vocab, case.k, peer)
            for case in plan.cases()
            for peer in PEERS[case.op]
            if peer != "torch.compile"
        ]
        keys = ("op", "dtype", "batch", "vocab", "k", "peer")
        assert [tuple(row[key] for key in keys) for row in rows] == expected

    def test_keys_and_the_direction_of_the_ratio(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            assert tuple(row) == KEYS
            assert row["ratio"] == row["peer_us"] / row["median_us"]
            assert row["median_us"] > 0
            assert row["device"] == "cpu"
            assert row["threads"] == 1

    def test_bytes_are_those_of_one_read(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            width = 4 if row["dtype"] == "float32" else 2
            moved = {
                "kv_append_": 2 * 2 * row["batch"] * 4 * 128 * width,
                "step_update_": 120 * row["batch"],
            }.get(row["op"], row["batch"] * (row["vocab"] or 0) * width)
            assert row["gbps"] * row["median_us"] * 1e3 == pytest.approx(moved)

    def test_table_has_a_line_a_case_and_a_column_a_peer(self, rows: list[dict[str, Any]]) -> None:
        text = markdown(rows, "a title")
        lines = [line for line in text.splitlines() if line.startswith("| float32")]
        assert len(lines) == len({(r["op"], r["batch"], r["vocab"]) for r in rows})
        for op in OPS:
            assert f"## {op}, " in text
        assert all(peer in text for op in OPS for peer in PEERS[op] if peer != "torch.compile")


@pytest.mark.parametrize(("width", "line_a_peer"), [(80, True), (200, False)])
def test_tables_fit_the_terminal(rows: list[dict[str, Any]], width: int, line_a_peer: bool) -> None:
    for row in rows:
        row.update(vocab=row["vocab"] and 262_144, median_us=1e5, gbps=1.23e-3, ratio=1234.5)
    found = tables(rows, width)
    assert next(iter(found)).endswith(", k = 8, threads = 1")
    assert any("peer" in head for head, _ in found.values()) == line_a_peer
    for head, lines in found.values():
        words = [max(map(len, name.split())) for name in head]
        for line in lines:
            assert len(line) == len(head)
            cells = [max(map(len, cell.split() or [""])) for cell in line]
            assert sum(max(pair) + 1 for pair in zip(words, cells, strict=True)) <= width


def test_interrupted_run_keeps_whole_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def stop_at_the_third(case: Case, seconds: float, **options: Any) -> Any:
        measured.append(case)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return real(case, seconds, **options)

    real = measure_module.measure
    monkeypatch.setattr(measure_module, "measure", stop_at_the_third)
    file = tmp_path / "rows.json"
    result = bench(*TINY, *SHORT, "--ops", "kv_append_", "--json", file)
    assert result.exit_code == 130
    assert "2 of 4 cases were measured; their rows are written" in result.stderr
    assert len(json.loads(file.read_text())) == 2 * len(PEERS["kv_append_"])
    assert list(tmp_path.iterdir()) == [file]  # no temporary file is left


def test_quick_and_full_grids_are_those_of_the_documentation() -> None:
    assert Plan().batches == (1, 8, 64, 256)
    assert Plan().vocabs == (32_000, 50_257, 128_256, 151_936, 262_144)
    logits_ops = ("logit_stats", "sample_logits")
    quick = {case for case in QUICK.cases() if case.op in logits_ops}
    assert len(quick) == 16
    assert quick < set(Plan().cases())


@pytest.mark.parametrize("op", OPS)
def test_peers_are_the_ones_that_are_announced(op: str) -> None:
    case = next(case for case in Plan((op,), (2,), (50,)).cases())
    with torch.inference_mode():
        assert set(workload(case).calls) == {OURS, *PEERS[op]}


def test_peer_that_fails_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("needs another card")

    monkeypatch.setattr(peers, "installed", lambda op, logits, k: {"other": broken})
    result = bench("--ops", "logit_stats", *TINY, *SHORT)
    assert result.exit_code == 0
    assert "steer: other was left out where it failed: RuntimeError: needs another card" in (
        result.stderr
    )
    assert "other" not in result.stdout


@pytest.mark.slow
def test_compiled_chain_is_a_peer(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    args = ["--ops", "logit_stats", "--batches", 2, "--vocabs", 50, "--dtypes", "float32"]
    assert bench(*args, "--seconds", 0.01, "--json", file).exit_code == 0
    assert "torch.compile" in {row["peer"] for row in json.loads(file.read_text())}


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_picture(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"picture.{suffix}"
    assert bench(*TINY, *SHORT, "--plot", file).exit_code == 0
    assert file.read_bytes().startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    assert list(tmp_path.iterdir()) == [file]


def test_picture_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    result = bench(*TINY, *SHORT, "--plot", "picture.png")
    assert result.exit_code == 2
    assert result.stderr == ("steer: --plot needs matplotlib: pip install steer-kernels[plot]\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--ops", "softmax"], "unknown op 'softmax': choose from logit_stats"),
        (["--ops", ","], "no op: choose from logit_stats"),
        (["--dtypes", "float64"], "unknown dtype 'float64': choose from float32"),
        (["--device", "tpu"], "unknown device 'tpu': choose from cpu, cuda"),
        (["--batches", "1,0"], "--batches must be numbers from 1 on, got 1,0"),
        (["--batches", ""], "--batches must be numbers from 1 on, got none"),
        (["--batches", "1,x"], "--batches must be whole numbers, as in 1,8, got '1,x'"),
        (["--threads", "0"], "--threads must be numbers from 1 on, got 0"),
        (["--vocabs", "7"], "--vocabs must be numbers from k = 8 on, got 7"),
        (["--k", "65"], "--k must be in 1..64, got 65"),
        (["--k", "0"], "--k must be in 1..64, got 0"),
        (["--seconds", "0"], "--seconds must be above 0"),
        (["--seconds", "nan"], "--seconds must be above 0"),
        (["--cold-l2"], "--cold-l2 is for --device cuda"),
        (["--json", "{file}/rows.json"], "cannot write"),
        (["--json", "{folder}"], "which is a folder: choose another --json"),
        (["--plot", "picture.txt"], "--plot must end in .png or .svg, got 'picture.txt'"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, args: list[str], message: str) -> None:
    file = tmp_path / "file"
    file.touch()
    result = bench(*(arg.format(file=file, folder=tmp_path) for arg in args))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_card_is_refused() -> None:
    result = bench("--device", "cuda")
    assert result.exit_code == 2
    assert result.stderr == ("steer: --device cuda: torch finds no CUDA device on this machine\n")


@pytest.mark.gpu
def test_rows_of_a_gpu(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    result = bench(*TINY, *SHORT, "--device", "cuda", "--cold-l2", "--json", file)
    assert result.exit_code == 0, result.output
    assert {row["op"] for row in json.loads(file.read_text())} == set(OPS)


class FakeEvent:
    """A CUDA event whose clock is the number of calls made so far, in milliseconds."""

    calls = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.time = FakeEvent.calls

    def elapsed_time(self, end: FakeEvent) -> float:
        return end.time - self.time


@pytest.mark.parametrize("cold_l2", [False, True])
def test_timer_of_a_gpu_queues_behind_a_wait(
    cold_l2: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    cuda = types.SimpleNamespace(Event=FakeEvent, synchronize=lambda: None, _sleep=waits.append)
    flushed = torch.ones(4)
    fake = types.SimpleNamespace(cuda=cuda, uint8=torch.uint8, empty=lambda *a, **k: flushed)
    monkeypatch.setattr(timer, "torch", fake)

    def call() -> None:
        FakeEvent.calls += 1

    us = timer.medians({"a": call}, 1e-9, device="cuda", cold_l2=cold_l2)
    assert us == {"a": pytest.approx(1000.0)}  # a call a millisecond
    assert len(waits) == 1  # a round, as there is no time for more
    assert min(waits) >= 1e-3 * timer.CYCLES_PER_SECOND
    assert flushed.any() != cold_l2
