"""Passes whose logits nobody needs: they end with the last layer's keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from steer_decode.core.shape import ModelShape
from steer_decode.core.transcript import Transcript
from steer_decode.engines.hf.cpu import attention
from steer_decode.engines.hf.lane import Lane
from support import reference_loop as ref
from support.backends import needs_cpu_layers
from support.tiny import FAMILIES, make_model, make_pair, prompt_ids
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

ALL = (*FAMILIES, "olmo3")


def lane_of(model: PreTrainedModel, lengths: tuple[int, ...]) -> Lane:
    texts = [Transcript(prompt_ids(seed, length)) for seed, length in enumerate(lengths)]
    return Lane(model, ModelShape.of(model), texts)


def fill(lane: Lane) -> None:
    """All but the last token of each text."""
    rows = range(lane.cache.rows)
    with torch.inference_mode():
        lane.fill(rows, [lane.transcript(row).ids[lane.read_mark(row) : -1] for row in rows])


def layers(model: PreTrainedModel) -> nn.ModuleList:
    """Of any family, under whatever name."""
    return next(module for module in model.modules() if isinstance(module, nn.ModuleList))


@contextmanager
def last_layers(model: PreTrainedModel) -> Iterator[list[int]]:
    """Collects an entry whenever the last layer of ``model`` has run to its end."""
    runs: list[int] = []
    handle = layers(model)[-1].register_forward_hook(lambda *_: runs.append(1))
    try:
        yield runs
    finally:
        handle.remove()


def assert_as_recomputed(lane: Lane, family: str) -> None:
    pair = make_pair(family)
    logits = lane.catch_up(range(lane.cache.rows))
    for row, actual in enumerate(logits):
        expected = ref.next_logits(pair, "small", lane.transcript(row).ids)
        actual = actual[: pair.vocab_size].double()
        torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.spread(2)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [(2,), (9,), (40,), (12, 12)], ids=str)
@pytest.mark.parametrize("family", ALL)
@pytest.mark.few(6)
def test_what_is_filled_is_as_if_read_and_the_rest_is_not_computed(
    family: str, lengths: tuple[int, ...], attention: str
) -> None:
    model = make_pair(family).small
    model.set_attn_implementation(attention)
    lane = lane_of(model, lengths)
    with last_layers(model) as runs:
        fill(lane)
        assert not runs
        assert lane.cache.lengths == [n - 1 for n in lengths]
        assert lane.usage(0).processed == lengths[0] - 1
        assert_as_recomputed(lane, family)
        assert runs == [1]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_neox"])
def test_rows_with_different_numbers_of_tokens_are_filled_together(
    family: str, attention: str
) -> None:
    model = make_pair(family).small
    model.set_attn_implementation(attention)
    lane = lane_of(model, (9, 30, 2))
    fill(lane)
    assert lane.usage(0).forwards == 1
    assert lane.cache.lengths == [8, 29, 1]
    assert_as_recomputed(lane, family)


@needs_cpu_layers
def test_attention_that_does_not_come_to_us_is_given_a_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "UNKNOWN", frozenset({"sliding_window"}))
    lane = lane_of(make_pair("mistral").small, (12, 12))
    fill(lane)
    assert lane.cache.state.served == 0
    assert_as_recomputed(lane, "mistral")


def test_what_counts_operators_is_shown_the_whole_pass() -> None:
    model = make_model("llama", 0)
    lane = lane_of(model, (20,))
    with last_layers(model) as runs, FlopCounterMode(display=False) as counter:
        fill(lane)
    assert runs == [1]
    assert counter.get_total_flops() > 0


def test_a_pass_that_fails_half_way_leaves_the_next_one_whole() -> None:
    model = make_pair("llama").small
    lane = lane_of(model, (20,))
    handle = layers(model)[0].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fill(lane)
    handle.remove()
    assert lane.cache.lengths == [0]
    with last_layers(model) as runs:
        lane.catch_up()
        assert runs == [1]  # it is no fill, and is not broken off
        lane.roll_back(0, 0)
        fill(lane)
        assert runs == [1]
    assert_as_recomputed(lane, "llama")


@pytest.mark.slow
def test_a_compiled_model_is_filled_whole() -> None:
    model = make_pair("llama").small
    model.compile(backend="eager")
    lane = lane_of(model, (20,))
    fill(lane)
    assert lane.cache.lengths == [19]
    assert_as_recomputed(lane, "llama")
