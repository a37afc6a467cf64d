"""`steer bench kernels` and `make gpu-check`: what they measure, write, and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode.bench.kernels import drafts, peers, plot
from steer_decode.bench.kernels import measure as measure_module
from steer_decode.bench.kernels.plan import CLOCKS, OPS, QUICK, SAMPLINGS, Case, KernelPlan
from steer_decode.bench.kernels.report import KEYS, markdown, tables
from steer_decode.bench.kernels.workload import OURS, PEERS, sample_chain, workload
from steer_decode.cli import app
from typer.testing import CliRunner

from steer_kernels import accept_drafts, reference

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
        plan = KernelPlan(batches=(1, 3), vocabs=(64, 100), dtypes=("float32", "bfloat16"))
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
            assert row["clock"] == "host"
            assert row["sampling"] == ("plain" if row["op"] == "sample_logits" else None)
            assert row["threads"] == 1

    def test_bytes_are_those_of_one_read(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            width = 4 if row["dtype"] == "float32" else 2
            moved = {
                "kv_append_": 2 * 2 * row["batch"] * 4 * 128 * width,
                "step_update_": 120 * row["batch"],
                "accept_drafts": 2 * row["batch"] * (row["vocab"] or 0) * width,
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
    assert KernelPlan().batches == (1, 8, 64, 256)
    assert KernelPlan().vocabs == (32_000, 50_257, 128_256, 151_936, 262_144)
    logits_ops = ("logit_stats", "sample_logits")
    quick = {case for case in QUICK.cases() if case.op in logits_ops}
    assert len(quick) == 16
    assert quick < set(KernelPlan().cases())


@pytest.mark.parametrize("op", OPS)
def test_peers_are_the_ones_that_are_announced(op: str) -> None:
    case = next(case for case in KernelPlan((op,), (2,), (50,)).cases())
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


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_samplings_are_those_of_the_op_and_of_the_chain(sampling: str, tmp_path: Path) -> None:
    """The chain keeps what the op's definition keeps, and a line of the table says which it is."""
    settings: Any = SAMPLINGS[sampling]
    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(1)).mul_(4)
    keep = reference.kept(
        logits.double(), 1.0, settings.get("top_k", 0), settings.get("top_p", 1.0), 0.0
    )
    for _ in range(20):
        token, logprob = sample_chain(logits, 8, **settings)[-2:]
        assert keep.gather(-1, token).all()
        expected = logits.double().masked_fill(~keep, -torch.inf).log_softmax(-1).gather(-1, token)
        torch.testing.assert_close(logprob.double(), expected, rtol=0, atol=1e-5)
    case = Case("sample_logits", "float32", 3, 300, 8, 1, sampling=sampling)
    with torch.inference_mode():
        calls = workload(case, compiled=False).calls
        if sampling == "greedy":
            first = [call()[-2].flatten() for call in (calls[OURS], calls["torch"])]  # type: ignore
            assert first[0].equal(first[1])
    file = tmp_path / "rows.json"
    args = ["--ops", "sample_logits", "--samplings", f"plain,{sampling}", "--vocabs", 300]
    args += ["--batches", 3, "--dtypes", "float32", *SHORT, "--json", file]
    result = bench(*args)
    assert result.exit_code == 0
    rows = json.loads(file.read_text())
    assert {row["sampling"] for row in rows} == {"plain", sampling}
    assert ("| sampling |" in result.stdout) == (sampling != "plain")


def test_calls_take_turns_at_the_inputs() -> None:
    case = Case("logit_stats", "float32", 2, 50, 4, 1)
    with torch.inference_mode():
        calls = workload(case, compiled=False, inputs=3).calls
        maxima = [calls[OURS]().max_logit for _ in range(6)]  # type: ignore[attr-defined]
        theirs = [calls["torch"]()[0] for _ in range(3)]  # type: ignore[index]
    for i in range(3):
        assert maxima[i].equal(maxima[i + 3])
        assert maxima[i].equal(theirs[i])
        assert not maxima[i].equal(maxima[(i + 1) % 3])


@pytest.mark.slow
def test_compiled_chain_is_a_peer(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    args = ["--ops", "logit_stats", "--batches", 2, "--vocabs", 50, "--dtypes", "float32"]
    assert bench(*args, "--seconds", 0.01, "--json", file).exit_code == 0
    assert "torch.compile" in {row["peer"] for row in json.loads(file.read_text())}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["svg", pytest.param("png", marks=pytest.mark.slow)])
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
        (["--clocks", "graph"], "--clocks is for --device cuda"),
        (["--clocks", "sun", "--device", "cuda"], "unknown clock 'sun': choose from events, graph"),
        (["--samplings", "warm"], "unknown sampling 'warm': choose from plain, greedy, top_p=0.95"),
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
    clocks = ",".join(CLOCKS)
    args = ["--device", "cuda", "--cold-l2", "--clocks", clocks, "--json", file]
    result = bench(*TINY, *SHORT, *args)
    assert result.exit_code == 0, result.output
    rows = json.loads(file.read_text())
    assert {(row["op"], row["clock"]) for row in rows} == {(op, c) for op in OPS for c in CLOCKS}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_drafts_are_judged_as_the_chain_judges_them(dtype: str) -> None:
    """Every second one is refused by both, the others stand, and the last row has none."""
    case = Case("accept_drafts", dtype, 6, 300, 8, 1)
    given = drafts.drafted(case, 0)
    with torch.inference_mode():
        ours = accept_drafts(*(given.large, given.drafts, given.uniform, given.small), k=8)
        chain = drafts.chain(*given)
    accepted = ours[:, -1].bool()
    assert accepted.tolist() == [False, True, False, True, False, False]
    assert torch.equal(chain == given.drafts, accepted)
    assert torch.equal(ours[accepted, 0].long(), chain[accepted])
