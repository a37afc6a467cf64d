"""What `steer bench decode` times: turns over contexts, and answers. No test asserts a time."""

from __future__ import annotations

import json
import shutil
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import FirstTokenEntropy, Router, SteerError
from steer_decode.bench.decode import answers as decode_answers
from steer_decode.bench.decode import models as decode_models
from steer_decode.bench.decode.answers import (
    DecodeReplay,
    answer_by_answer,
    demo_pair,
    drafted,
    passes_of,
)
from steer_decode.bench.decode.models import load, random_model
from steer_decode.bench.decode.plan import (
    DecodePlan,
    Job,
)
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
from steer_decode.demo import pair_paths, problems
from support.bench_decode import TINY, bench, use_tiny_shapes
from transformers import GenerationConfig


@pytest.fixture(autouse=True)
def tiny_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_shapes(monkeypatch)


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
