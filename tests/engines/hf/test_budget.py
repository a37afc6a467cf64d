"""Parts of prompts: no pass holds more than the budget of the pair leaves, by arithmetic."""

from __future__ import annotations

import pytest
import torch
from steer_decode.core.shape import ModelShape
from steer_decode.core.transcript import Transcript
from steer_decode.demo import pair_paths
from steer_decode.engines.hf.budget import PART, SHARE, SHORT, Budget
from steer_decode.engines.hf.cache import KVCache
from steer_decode.engines.hf.lane import Lane
from steer_decode.models.pair import Pair
from support.backends import needs_cpu_layers
from support.lanes import lanes_of
from support.tiny import FAMILIES, make_model, make_pair, prompt_ids
from torch.profiler import ProfilerActivity, profile


def peak_of(lane: Lane) -> int:
    """Most bytes that torch holds at a time while the lane reads, over those before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        lane.catch_up()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    sizes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = most = 0
    for _, size in sizes:
        live += size
        most = max(most, live)
    return most


def bare_lane(model: torch.nn.Module, tokens: int) -> Lane:
    """One that is to read ``tokens`` in one pass, into buffers that are there."""
    transcript = Transcript([1])
    lane = Lane(model, ModelShape.of(model), [transcript], tokens + 1)  # type: ignore[arg-type]
    lane.cache.reserve(tokens + 1)
    lane.catch_up()
    for token in prompt_ids(0, tokens):
        transcript.append(token, "large")
    return lane


@needs_cpu_layers  # whose activations are reckoned; those of transformers hold up to 4 % more
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("gemma3_text", "mistral")])
def test_activations_are_no_more_than_reckoned(family: str, dtype: torch.dtype) -> None:
    model = make_model(family, 0, width=128).to(dtype)
    lane = bare_lane(model, 200)
    assert peak_of(lane) <= 1.02 * 200 * ModelShape.of(model).activation_bytes


@needs_cpu_layers
def test_of_llama_they_are_reckoned_exactly() -> None:
    pair = Pair.from_pretrained(*pair_paths(), device="cpu", dtype=torch.float32)
    for model in (pair.small, pair.large):
        measured = peak_of(bare_lane(model, 200))
        assert measured == pytest.approx(200 * ModelShape.of(model).activation_bytes, rel=0.01)


def shape(**sizes: int) -> ModelShape:
    numbers = {"parameters": 10**6, "query_width": 64, "kv_width": 64, "activations": 1000}
    numbers |= sizes
    numbers |= {"active": numbers["parameters"], "held_bytes": 4 * numbers["parameters"]}
    sizes = {"body": 0, "head": 0, "dense_bytes": 0, "weight_bytes": 4}
    return ModelShape(**numbers, **sizes, windows=(None,) * 2)


def test_room_is_a_share_and_what_is_not_written() -> None:
    budget, model = Budget(), shape()
    for name in ("a", "b"):
        budget.join(name, model, KVCache(model.windows, rows=3))
    caches = 2 * model.cache_bytes(3 * 100)
    assert budget.room(100) == SHARE * (2 * 4 * 10**6 + caches) + caches


def test_a_model_that_serves_both_sides_counts_once() -> None:
    budget, model = Budget(), shape()
    for _ in range(2):
        budget.join("a", model, KVCache(model.windows))
    assert budget.room(0) == SHARE * 4 * 10**6


def test_models_of_real_size_read_whole_parts() -> None:
    # SmolLM2-135M beside itself, in a short text.
    model = shape(
        parameters=134_515_008, query_width=576, kv_width=192, activations=4 * 576 + 3 * 1536
    )
    budget, cache = Budget(), KVCache((None,) * 30)
    budget.join("a", model, cache)
    budget.join("b", model, KVCache((None,) * 30))
    assert budget.tokens(model, cache, 0) > PART[0]


def test_parts_of_a_small_pair_get_shorter_as_its_cache_fills() -> None:
    pair, transcript = make_pair("llama", 0), Transcript(prompt_ids(3, 400))
    lane = lanes_of(pair, [transcript], 420)["large"]
    lane.catch_up()
    parts = [one.new for one in lane._passes[0]]
    assert sum(parts) == 400
    assert parts[:-1] == sorted(parts[:-1], reverse=True)
    assert SHORT // 4 <= min(parts[:-1]) < max(parts) <= PART[0]


def test_nothing_is_read_that_memory_held_before() -> None:
    """Buffers are not cleared: with NaN in all new memory, the logits of ragged rows are sound."""
    pair = make_pair("llama", 0)
    transcripts = [Transcript(prompt_ids(i, 20 + 9 * i)) for i in range(3)]
    torch.use_deterministic_algorithms(True)  # new memory is filled with NaN
    try:
        lane = lanes_of(pair, transcripts, 300)["large"]
        for _ in range(3):
            assert lane.catch_up([0, 2]).isfinite().all()
            assert lane.catch_up([0, 1, 2]).isfinite().all()
            lane.prefill([0, 1, 2])
            for transcript in transcripts:
                for token in prompt_ids(7, 50):
                    transcript.append(token, "large")
    finally:
        torch.use_deterministic_algorithms(False)


def test_memory_is_touched_as_it_is_written() -> None:
    pair, transcript = make_pair("llama", 0), Transcript(prompt_ids(1, 20))
    lane = lanes_of(pair, [transcript], 1000)["small"]
    lane.cache.reserve(1000)
    lane.catch_up()
    assert lane.cache.touched == [20]


def test_a_row_that_runs_alone_touches_its_own_memory() -> None:
    """Its cache had many rows once; the others' buffers are no machine's burden until they run."""
    pair = make_pair("llama", 0)
    transcripts = [Transcript(prompt_ids(i, 20)) for i in range(8)]
    lane = lanes_of(pair, transcripts, 1000)["small"]
    for length in (300, 310):
        lane.catch_up([2])
        for token in prompt_ids(5, length - len(transcripts[2].ids)):
            transcripts[2].append(token, "small")
    assert lane.cache.touched == [0, 0, 300, 0, 0, 0, 0, 0]
    held = lane.cache.held_bytes
    lane.catch_up([2, 3])  # ragged: both are made safe to the end of the longer
    assert lane.cache.touched == [0, 0, 320, 320, 0, 0, 0, 0]
    assert lane.cache.held_bytes == pytest.approx(held * 640 / 300)
