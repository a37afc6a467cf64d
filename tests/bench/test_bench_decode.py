"""`steer bench decode`: what it measures, predicts, writes and refuses. No test asserts a time."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from steer_decode import SteerError
from steer_decode.bench.decode import measure as decode
from steer_decode.bench.decode import memory as decode_memory
from steer_decode.bench.decode.models import load
from steer_decode.bench.decode.plan import (
    GROUPS,
    MEASURES,
    MODELS,
    QUICK,
    DecodePlan,
    DecodeRow,
    Job,
)
from steer_decode.bench.decode.report import head, line
from steer_decode.bench.decode.turns import (
    BUSY,
)
from support.bench_decode import TINY, bench, use_tiny_shapes

KEYS = ["measure", "model", "threads", "context", "value", "limit", "ok", "spread"]
SHORT = ("--tokens", 3, "--seconds", 0, "--problems", 2)


@pytest.fixture(autouse=True)
def tiny_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_shapes(monkeypatch)


class TestCommand:
    @pytest.mark.slow
    def test_every_measure_is_a_row_of_the_json(self, tmp_path: Path) -> None:
        file = tmp_path / "rows.json"
        only = [name for name in MEASURES if name != "memory"]  # which starts a process
        args = ("--models", "demo,smollm2-135m", "--contexts", 20, "--threads", 1)
        result = bench(*SHORT, *args, "--only", ",".join(only), "--json", file)
        assert result.exit_code == 0, result.output
        rows = json.loads(file.read_text())
        assert all(list(row) == KEYS for row in rows)
        whole = (*GROUPS["answers"], *GROUPS["overlap"])
        of_answers = [(name, "demo") for name in whole]
        alone = [name for name in only if name not in whole]
        free = ("assisted", *GROUPS["overlap"])  # of limits
        expected = [(name, model) for model in ("demo", "smollm2-135m") for name in alone]
        found = [(row["measure"], row["model"]) for row in rows]
        assert sorted(found) == sorted(expected + of_answers)
        for row in rows:
            assert math.isfinite(row["value"])
            assert row["value"] > 0
            assert row["threads"] == 1
            assert (row["ok"] is None) == (row["limit"] is None) == (row["measure"] in free)
            assert line(DecodeRow(**row)) in result.stdout
        met = sum(row["ok"] is True for row in rows)
        limited = sum(row["limit"] is not None for row in rows)
        assert f"{met} of {limited} limits are met." in result.stdout

    def test_check_fails_where_a_limit_is_missed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decode, "measure", lambda job, plan: [DecodeRow.of("loop", job, 1.2)])
        args = ("--models", "demo", "--only", "loop", "--contexts", 20, "--threads", 1)
        assert bench(*args).exit_code == 0
        assert bench(*args, "--check").exit_code == 1
        monkeypatch.setattr(decode, "measure", lambda job, plan: [DecodeRow.of("loop", job, 1.0)])
        assert bench(*args, "--check").exit_code == 0

    def test_interrupted_run_keeps_whole_json(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop_at_the_third(job: Job, plan: DecodePlan) -> list[DecodeRow]:
            if job.context == 30:
                raise KeyboardInterrupt
            return [DecodeRow.of("loop", job, 1.0)]

        monkeypatch.setattr(decode, "measure", stop_at_the_third)
        file = tmp_path / "rows.json"
        args = ("--models", "demo", "--only", "loop", "--contexts", "10,20,30", "--threads", 1)
        result = bench(*args, "--json", file)
        assert result.exit_code == 130
        assert "2 of 3 jobs were measured; their rows are written" in result.stderr
        assert [row["context"] for row in json.loads(file.read_text())] == [10, 20]
        assert list(tmp_path.iterdir()) == [file]  # no temporary file is left

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["--only", "speed"], "unknown measure 'speed': choose from loop"),
            (["--models", "gpt-5"], "unknown model 'gpt-5': choose from demo"),
            (["--threads", "0"], "--threads must be numbers from 1 on, got 0"),
            (["--contexts", ""], "--contexts must be numbers from 1 on, got none"),
            (["--contexts", "1,x"], "--contexts must be whole numbers, as in 1,8, got '1,x'"),
            (["--problems", "0"], "--problems must be at least 1, got 0"),
            (["--tokens", "1"], "--tokens must be at least 2, got 1"),
            (["--seconds", "nan"], "--seconds must be at least 0 and at most 3600, got nan"),
            (["--contexts", "32768"], "--contexts must be at most 32640"),
            (["--only", "cohort", "--models", "smollm2-135m"], "add demo to --models"),
            (["--small", "x"], "--small is given without --large"),
            (["--small", "x", "--large", "y", "--models", "demo"], "give either --models or"),
            (["--small", "x", "--large", "y", "--only", "loop"], "measure of a pair of your own"),
            (["--small", "./x", "--large", "./y"], "there is no model folder './x'"),
            (["--dtype", "float32"], "add --small and --large"),
            (["--json", "{folder}"], "which is a folder: choose another --json"),
        ],
    )
    def test_bad_input_is_one_sentence(self, tmp_path: Path, args: list[str], message: str) -> None:
        result = bench(*(arg.format(folder=tmp_path) for arg in args))
        assert result.exit_code == 2
        assert result.stdout == ""
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1


class TestPlan:
    def test_full_and_quick_runs_are_those_of_the_documentation(self) -> None:
        assert DecodePlan().models == MODELS
        assert DecodePlan().threads == (1, 2)
        assert set(DecodePlan().only) == set(MEASURES) == {m for ms in GROUPS.values() for m in ms}
        assert max(DecodePlan().contexts) == max(QUICK.contexts) == 4096
        assert len(QUICK.jobs()) < len(DecodePlan().jobs()) / 2
        assert DecodePlan().problems == 16
        assert (DecodePlan().hand_over_context, DecodePlan().hand_over_tokens) == (2048, 64)

    def test_limits(self) -> None:
        asked = {(m, c): MEASURES[m].limit_at(c) for m in MEASURES for c in (128, 4096)}
        assert asked["loop", 128] == asked["loop", 4096] == 1.05
        assert (asked["generate", 128], asked["generate", 4096]) == (1.0, 1.3)
        assert (asked["hand-over", 128], asked["encode-again", 128]) == (1.15, 10)
        assert (asked["memory", 128], asked["cohort", 128]) == (1.05, 4)
        assert asked["assisted", 128] is None
        assert (asked["speculative", 128], asked["speculative-k4", 128]) == (1.0, 1.0)

    @pytest.mark.parametrize(
        ("measure", "context", "value", "ok"),
        [
            ("loop", 128, 1.05, True),
            ("loop", 128, 1.06, False),
            ("generate", 128, 1.0, True),
            ("generate", 4096, 1.2, False),
            ("predicted", 128, 0.91, True),
            ("predicted", 128, 0.89, False),
            ("predicted", 128, 1.11, False),
            ("assisted", 128, 0.1, None),
            ("speculative", 128, 0.99, True),
            ("speculative-k4", 128, 1.01, False),
        ],
    )
    def test_which_side_of_the_limit(
        self, measure: str, context: int, value: float, ok: bool | None
    ) -> None:
        row = DecodeRow.of(measure, Job("any", "demo", 1, context), value)
        assert row.ok is ok
        assert line(row).startswith({True: "✓", False: "✗", None: " "}[ok])
        assert len(line(row)) <= 100
        assert len(head()) <= 100

    def test_a_busy_machine_is_named(self) -> None:
        row = DecodeRow.of("loop", Job("decode", "demo", 2, 128), 1.0, spread=2 * BUSY)
        assert "busy machine" in line(row)


class TestMemory:
    def test_arithmetic_counts_each_weight_once(self) -> None:
        pair = load("smollm2-135m", separate=True)
        weights = sum(pair.model(w).num_parameters() for w in ("small", "large")) * 4
        cached = 2 * 2 * TINY.layers * TINY.kv_heads * (TINY.hidden // TINY.heads) * 4
        assert decode_memory.arithmetic(pair, 10) == weights + 10 * cached
        assert decode_memory.arithmetic(load("smollm2-135m"), 0) == weights / 2

    def test_process_that_fails_without_a_word_is_named(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", "false")
        with pytest.raises(SteerError, match="memory of 'demo' failed: no message"):
            decode_memory.rows(Job("memory", "demo", 1, 8), DecodePlan(tokens=4))

    @pytest.mark.slow
    def test_process_that_fails_is_named(self) -> None:
        with pytest.raises(SteerError, match="measuring the memory of 'no-such' failed"):
            decode_memory.rows(Job("memory", "no-such", 1, 8), DecodePlan(tokens=4))

    @pytest.mark.slow
    def test_row_of_a_fresh_process(self) -> None:
        (row,) = decode_memory.rows(Job("memory", "demo", 1, 64), DecodePlan())
        assert row.value > 0.5
