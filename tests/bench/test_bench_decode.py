"""`steer bench decode`: what it measures, predicts, writes and refuses. No test asserts a time."""

from __future__ import annotations

import json
import math
import shutil
import sys
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import FirstTokenEntropy, Router, SteerError
from steer_decode.bench.decode import answers as decode_answers
from steer_decode.bench.decode import measure as decode
from steer_decode.bench.decode import memory as decode_memory
from steer_decode.bench.decode import models as decode_models
from steer_decode.bench.decode.answers import (
    DecodeReplay,
    answer_by_answer,
    demo_pair,
    drafted,
    passes_of,
)
from steer_decode.bench.decode.models import Shape, load, random_model
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
    Context,
    bare,
    generate,
    in_turns,
    ours,
    pieces,
    total,
)
from steer_decode.cli import app
from steer_decode.demo import pair_paths, problems
from transformers import GenerationConfig
from typer.testing import CliRunner

KEYS = ["measure", "model", "threads", "context", "value", "limit", "ok", "spread"]
TINY = Shape("llama", vocab=300, hidden=32, intermediate=48, layers=2, heads=4, kv_heads=2)
SHORT = ("--tokens", 3, "--seconds", 0, "--problems", 2)


def bench(*args: object) -> Any:
    return CliRunner().invoke(app, ["bench", "decode", *map(str, args)])


@pytest.fixture(autouse=True)
def tiny_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shape is a tiny one, and no pair of another test is kept."""
    monkeypatch.setattr(decode_models, "SHAPES", dict.fromkeys(decode_models.SHAPES, TINY))
    decode._pair.cache_clear()


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
        of_answers = [(name, "demo") for name in GROUPS["answers"]]
        alone = [name for name in only if name not in GROUPS["answers"]]
        expected = [(name, model) for model in ("demo", "smollm2-135m") for name in alone]
        found = [(row["measure"], row["model"]) for row in rows]
        assert sorted(found) == sorted(expected + of_answers)
        for row in rows:
            assert math.isfinite(row["value"])
            assert row["value"] > 0
            assert row["threads"] == 1
            assert (row["ok"] is None) == (row["limit"] is None) == (row["measure"] == "assisted")
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


class TestTurns:
    def test_least_of_each_and_spread_of_the_first(self) -> None:
        times = {"a": iter([9.0, 2.0, 1.0, 1.2]), "b": iter([9.0, 5.0, 4.0, 6.0])}
        turns = [lambda name=name: {name: next(times[name])} for name in times]
        least, spread = in_turns(turns, 3, 0)
        assert least == {"a": 1.0, "b": 4.0}
        assert spread == 1.2

    def test_measured_again_once_where_turns_differ(self) -> None:
        calls = iter(range(100))
        least, spread = in_turns([lambda: {"a": 1.0 + 9.0 * (next(calls) % 2)}], 4, 0)
        assert next(calls) == 1 + 4 + 4
        assert spread > BUSY
        assert least == {"a": 1.0}

    @pytest.mark.parametrize("model", ["demo", "qwen2.5-0.5b"])
    def test_all_three_contenders_write_the_same(self, model: str) -> None:
        """The ratios compare equal work: same forward passes, same tokens."""
        context = Context(load(model), 24, 6)
        seen: list[torch.Tensor] = []

        def note(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            seen.append(output.logits[:, -1].clone())

        context.model.register_forward_hook(note, with_kwargs=True)
        written = []
        for make in (ours, bare, generate):
            seen.clear()
            assert all(value >= 0 for value in make(context, 5, lambda: 0.0)().values())
            written.append(torch.cat(seen))
        for other in written[1:]:
            assert other.shape == written[0].shape  # five passes each
            torch.testing.assert_close(other, written[0], rtol=1e-4, atol=1e-4)

    def test_random_model_has_the_sizes_of_its_shape(self) -> None:
        model = random_model(TINY)
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert all(bool(torch.isfinite(weight).all()) for weight in model.parameters())
        assert model.config.num_key_value_heads == TINY.kv_heads

    def test_pairs_never_end_by_themselves(self) -> None:
        for name in ("demo", "smollm2-135m"):
            assert load(name).eos_ids == frozenset()
            assert load(name).max_length == decode_models.POSITIONS


def test_every_forward_pass_of_an_answer_is_noted_and_run_again() -> None:
    router = Router(demo_pair(), FirstTokenEntropy(0.5))
    prompt = "Compute 13 -4 +7 -9 +4 -3 ?"
    passes = passes_of(router, prompt)
    answer = router.generate(prompt, max_new_tokens=decode_answers.MAX_NEW_TOKENS)
    for writer, usage in (("small", answer.cost.small), ("large", answer.cost.large)):
        mine = [tokens for w, tokens in passes if w == writer]
        assert len(mine) == usage.forwards
        assert sum(mine) == usage.processed
    assert not router.pair.small._forward_pre_hooks
    again = DecodeReplay(router.pair)
    for _ in range(2):
        again.run(passes)
        for writer, lane in again._lanes.items():
            assert lane.read_mark() == sum(tokens for w, tokens in passes if w == writer)


def test_the_least_time_of_each_token_counts() -> None:
    assert pieces("a", [1.0, 3.0, 4.0]) == {"a": 3.0, "a 0": 2.0, "a 1": 1.0}
    turns = cycle([[1.0, 3.0, 4.0], [1.0, 2.0, 9.0]])
    least, _ = in_turns([lambda: pieces("a", next(turns))], 2, 0, warm=False)
    assert least["a"] == 3.0
    assert total(least, "a") == 2.0


def test_answers_are_timed_one_by_one_and_together() -> None:
    ticks = iter(range(100))
    turn = answer_by_answer({"a": lambda _: next(ticks), "b": str}, 2, lambda: float(next(ticks)))
    assert turn() == {"a": 4, "b": 2, "a 0": 2, "b 0": 1, "a 1": 2, "b 1": 1}


class TestDrafts:
    def test_all_that_draft_write_the_tokens_of_the_large_model(self) -> None:
        pair, prompts = demo_pair(), [p.prompt for p in problems("qa", 2)]
        sides = ("assisted", "speculative:k=auto", "speculative:k=4")
        calls = drafted(pair, prompts, 40, sides)
        assert list(calls) == ["speculative:k=auto", "speculative:k=4", "assisted"]
        for call in calls.values():
            for answer in range(2):
                call(answer)  # it checks its tokens
        assert list(drafted(pair, prompts, 4, ("routed",))) == []

    @pytest.mark.parametrize("side", ["assisted", "speculative:k=4"])
    def test_other_tokens_are_an_error(self, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
        pair, (problem,) = demo_pair(), problems("qa", 1)
        call = drafted(pair, [problem.prompt], 8, (side,))[side]
        call(0)
        head = pair.large.get_output_embeddings()
        monkeypatch.setattr(head, "weight", torch.nn.Parameter(-head.weight.data))
        with pytest.raises(SteerError, match=f"{side} answered .* other tokens than the large"):
            call(0)

    def test_ratio_of_least_times(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Ours takes 3 s an answer and theirs 4 s, by a clock that is told."""
        now = [0.0]

        def takes(seconds: float, answer: int) -> None:
            now[0] += seconds

        calls = {"speculative:k=auto": 3.0, "speculative:k=4": 5.0, "assisted": 4.0}
        monkeypatch.setattr(
            decode_answers,
            "drafted",
            lambda *_: {side: partial(takes, seconds) for side, seconds in calls.items()},
        )
        monkeypatch.setattr(decode_answers, "clock", lambda threads: lambda: now[0])
        plan = DecodePlan(only=("speculative", "speculative-k4"), problems=3, turns=1, seconds=0)
        rows = decode_answers.rows(Job("answers", "demo", 1, 0), plan)
        assert [(row.measure, row.value, row.ok) for row in rows] == [
            ("speculative", 0.75, True),
            ("speculative-k4", 1.25, False),
        ]

    @pytest.mark.slow
    def test_a_pair_of_ones_own(self, tmp_path: Path) -> None:
        """With a penalty in its generation config, which a router knows nothing of."""
        for writer, folder in zip(("small", "large"), pair_paths(), strict=True):
            shutil.copytree(folder, tmp_path / writer)
            config = GenerationConfig.from_pretrained(folder)
            config.repetition_penalty = 1.5
            config.save_pretrained(tmp_path / writer)
        pair = ("--small", tmp_path / "small", "--large", tmp_path / "large")
        file = tmp_path / "rows.json"
        only = ("--only", "speculative,assisted", "--threads", 1, "--json", file)
        result = bench(*pair, *only, "--tokens", 20, "--seconds", 0, "--problems", 2)
        assert result.exit_code == 0, result.output
        rows = json.loads(file.read_text())
        assert [(row["measure"], row["model"]) for row in rows] == [
            ("assisted", "given"),
            ("speculative", "given"),
        ]


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
