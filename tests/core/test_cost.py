"""The accounts against PyTorch's own FLOP counter and against sums written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from steer_decode.core.cost import Pass, Usage
from steer_decode.core.shape import ModelShape, _causal_pairs
from steer_decode.engines.hf.cache_support import cache_argument
from support.tiny import FAMILIES, make_model, prompt_ids
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache


def counted_flops(model, new: int, past: int) -> int:  # type: ignore[no-untyped-def]
    cache = {cache_argument(model): DynamicCache()}
    ids = torch.tensor([prompt_ids(0, past + new)])
    with torch.no_grad():
        if past:
            model(ids[:, :past], logits_to_keep=1, **cache)
        with FlopCounterMode(display=False) as counter:
            model(ids[:, past:], logits_to_keep=1, **cache)
    return counter.get_total_flops()


@pytest.mark.parametrize("family", FAMILIES[:3])
@pytest.mark.parametrize(("new", "past"), [(1, 0), (1, 33), (7, 0), (7, 20)])
def test_flops_equal_those_counted_on_eager_attention(family: str, new: int, past: int) -> None:
    model = make_model(family, 0)
    # The counter sees nothing of fused attention on a CPU; eager multiplies whole rectangles.
    model.set_attn_implementation("eager")
    shape = ModelShape.of(model)
    masked_triangle = len(shape.windows) * new * (new - 1) // 2
    expected = counted_flops(model, new, past) - 4 * shape.query_width * masked_triangle
    # In older transformers rotary angles are a product too; no paper counts them.
    with FlopCounterMode(display=False) as angles:
        model.model.rotary_emb(torch.zeros(1, new, 1), torch.zeros(1, new, dtype=torch.int64))
    assert shape.flops(new, past) == expected - angles.get_total_flops()


@given(st.integers(1, 40), st.integers(0, 60), st.one_of(st.none(), st.integers(1, 50)))
def test_causal_pairs_are_the_sum_they_claim(new: int, past: int, window: int | None) -> None:
    spans = range(past + 1, past + new + 1)
    assert _causal_pairs(new, past, window) == sum(min(i, window or i) for i in spans)


def test_windows_are_read_from_the_config() -> None:
    assert ModelShape.of(make_model("gemma3_text", 0)).windows == (8, None)
    assert ModelShape.of(make_model("qwen2", 0)).windows == (None, None)


def test_sizes_add_up() -> None:
    model = make_model("llama", 0, layers=1)
    shape = ModelShape.of(model)
    norms = 3 * 32
    embedding = 40 * 32
    assert shape.head == embedding
    assert shape.parameters == shape.body + shape.head + embedding + norms
    # Weights once, and keys and values of 10 tokens: 2 heads of size 8, 4 bytes each.
    assert shape.bytes_read(10) == 4 * (shape.body + shape.head + 2 * 16 * 10)


_PASSES = st.builds(
    Pass, st.integers(1, 3), st.integers(0, 20), st.integers(1, 2), heads=st.integers(1, 2)
)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@given(st.lists(st.tuples(_PASSES, st.integers(1, 12)), max_size=6))
@pytest.mark.few(1)
def test_usage_is_the_sum_over_the_passes(family: str, runs: list[tuple[Pass, int]]) -> None:
    """Decode steps that follow one another are summed in closed form; nothing else is."""
    shape = ModelShape.of(make_model(family, 0))
    passes = [p._replace(past=p.past + i * p.new) for p, n in runs for i in range(n)]
    usage = Usage.of(shape, passes)
    assert usage.forwards == len(passes)
    assert usage.processed == sum(p.new for p in passes)
    assert usage.flops == sum(shape.flops(p.new, p.past, p.heads) for p in passes)
    expected = sum(shape.bytes_read(p.past, p.rows) for p in passes)
    assert usage.bytes_read == pytest.approx(expected, rel=1e-12)
