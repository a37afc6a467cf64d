"""Passes whose attention is decode_attention: who takes them, and that nobody else notices."""

from __future__ import annotations

import threading

import pytest
import torch
from steer_decode.core.shape import ModelShape
from steer_decode.core.transcript import Transcript
from steer_decode.engines.hf import swapped
from steer_decode.engines.hf.attention_name import DIRECT_NAME, attention_of, named
from steer_decode.engines.hf.cpu import attention
from steer_decode.engines.hf.lane import Lane
from support import reference_loop as ref
from support.backends import needs_cpu_layers
from support.tiny import FAMILIES, make_model, make_pair, prompt_ids
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import PreTrainedModel

ALL = (*FAMILIES, "olmo3")
pytestmark = needs_cpu_layers


def read(model: PreTrainedModel, lengths: tuple[int, ...] = (9, 30)) -> tuple[Lane, Tensor]:
    """Prompts of these lengths and one more token of each: the lane, and its last logits."""
    texts = [Transcript(prompt_ids(seed, length)) for seed, length in enumerate(lengths)]
    lane = Lane(model, ModelShape.of(model), texts)
    rows = range(len(lengths))
    lane.catch_up(rows)
    for text in texts:
        text.append(5, "small")
    return lane, lane.catch_up(rows)


@pytest.mark.spread
@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("lengths", [(30,), (9, 30), (12, 12)], ids=str)
def test_every_layer_of_a_decode_step_is_served(family: str, lengths: tuple[int, ...]) -> None:
    pair = make_pair(family)
    lane, logits = read(pair.small, lengths)
    assert lane.cache.state.served == len(lane.cache.layers)
    assert pair.small.config._attn_implementation == "sdpa"
    for row, text in enumerate(lane._transcripts):
        expected = ref.next_logits(pair, "small", text.ids)
        actual = logits[row, : pair.vocab_size].double()
        torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_no_mask_is_built_for_rows_of_different_length(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, _ = read(make_model(family, 0))
    monkeypatch.setattr("steer_decode.engines.hf.forward.ragged_mask", None)
    for text in lane._transcripts:
        text.append(6, "small")
    assert lane.catch_up((0, 1)).isfinite().all()


@torch.inference_mode()
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_nan_behind_each_rows_end_never_leaks(family: str) -> None:
    """In the pass itself, one token a row; longer passes read the zeros of a fresh buffer."""
    model = make_model(family, 0)
    lane, _ = read(model)
    for text in lane._transcripts:
        text.append(6, "small")
    for layer in lane.cache.layers:
        for row, length in enumerate(lane.cache.lengths):
            layer.keys[row, :, length:] = torch.nan
            layer.values[row, :, length:] = torch.nan
    poisoned = lane.catch_up((0, 1))
    clean, _ = read(model)
    for text in clean._transcripts:
        text.append(6, "small")
    assert torch.equal(poisoned, clean.catch_up((0, 1)))


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("more", [attention.MOST_QUERIES, attention.MOST_QUERIES + 1, 40])
@pytest.mark.few(6)
def test_long_passes_are_served_unless_a_window_cuts_something_off(family: str, more: int) -> None:
    """A prompt in parts of 20 tokens, and a hand-over."""
    pair = make_pair(family)
    shape = ModelShape.of(pair.small)
    text = Transcript(prompt_ids(1, 70))
    lane = Lane(pair.small, shape, [text])
    lane.part = 20
    for count in (0, more):
        for token in prompt_ids(count, count):
            text.append(token, "large")
        lane.cache.state.served = 0
        logits = lane.catch_up()
        if count > attention.MOST_QUERIES:
            served = lane.cache.state.served == len(lane.cache.layers)
            assert served == all(w is None or w >= len(text) for w in shape.windows)
        expected = ref.next_logits(pair, "small", text.ids)
        actual = logits[0, : pair.vocab_size].double()
        torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("counts", [(5, 1, 3, 3), (5, 40, 23, 23)], ids=["a few", "many"])
@pytest.mark.few(3)
def test_rows_with_different_numbers_of_new_tokens_run_in_one_pass_without_padding(
    family: str, counts: tuple[int, ...]
) -> None:
    """Unless a window cuts something off: long passes are then given a mask."""
    pair = make_pair(family)
    lane, _ = read(pair.small, (30, 9, 12, 12))
    windows = lane.cache.layers[0].window, lane.cache.layers[-1].window
    packs = max(counts) <= attention.MOST_QUERIES or windows == (None, None)
    for text, count in zip(lane._transcripts, counts, strict=True):
        for token in prompt_ids(count, count):
            text.append(token, "large")
    shapes = []
    handle = pair.small.register_forward_pre_hook(
        lambda *call: shapes.append(tuple(call[2]["input_ids"].shape)), with_kwargs=True
    )
    packed = lane.catch_up(range(4))
    for text in lane._transcripts:
        text.append(7, "small")
    after = lane.catch_up(range(4))
    handle.remove()
    assert shapes[-1] == (4, 1)
    assert (shapes[:-1] == [(1, sum(counts))]) == packs
    assert [lane.usage(row).processed for row in range(4)] == [
        len(text) for text in lane._transcripts
    ]
    for row, text in enumerate(lane._transcripts):
        for logits, ids in ((packed, text.ids[:-1]), (after, text.ids)):
            expected = ref.next_logits(pair, "small", ids)
            actual = logits[row, : pair.vocab_size].double()
            torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("longest", [0, 20])
def test_buffers_that_are_left_are_given_back_at_once(longest: int) -> None:
    """When they grow, shrink or go; the views that attention was handed keep none of them."""
    lane, _ = read(make_model("llama", 0))
    layer = lane.cache.layers[0]
    assert lane.cache.state.served

    def buffers() -> list[StorageWeakRef]:
        return [StorageWeakRef(b.untyped_storage()) for b in (layer.keys, layer.values)]

    small = buffers()
    lane.cache.reserve(1000)
    assert all(buffer.expired() for buffer in small)
    for text in lane._transcripts:
        text.append(6, "small")
    lane.catch_up((0, 1))
    large = buffers()
    lane.cache.lengths[:] = [longest] * 2
    lane.cache.shrink()
    assert all(buffer.expired() for buffer in large)


def test_models_with_other_attention_stay_with_it() -> None:
    model = make_model("llama", 0)
    expected = read(model)[1]
    model.set_attn_implementation("eager")
    lane, logits = read(model)
    assert lane.cache.state.served == 0
    assert model.config._attn_implementation == "eager"
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("lengths", [(9, 30), (9, 12)], ids=["one by one", "packed"])
def test_what_the_operator_does_not_know_is_read_again_with_a_mask(
    lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the sliding window, which Mistral names to its attention, were unknown."""
    model = make_model("mistral", 0)
    expected = read(model, lengths)[1]
    monkeypatch.setattr(attention, "UNKNOWN", frozenset({"sliding_window"}))
    lane, logits = read(model, lengths)
    assert lane.cache.state.served == 0
    assert not lane.forward.packs(1, 1)
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)


def test_memory_that_runs_out_in_a_packed_pass_is_not_taken_for_foreign_attention() -> None:
    model = make_model("llama", 0)
    lane, _ = read(model, (9, 12))

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    handle = model.lm_head.register_forward_pre_hook(full)
    for text in lane._transcripts:
        text.append(7, "small")
    lane._transcripts[0].append(8, "small")
    with pytest.raises(torch.OutOfMemoryError):
        lane.catch_up((0, 1))
    handle.remove()
    assert lane.forward.packs(1, 1)
    assert lane.cache.lengths == [10, 13]


def test_the_name_goes_back_when_a_pass_fails() -> None:
    model = make_model("llama", 0)
    lane, _ = read(model)
    handle = model.lm_head.register_forward_pre_hook(lambda *_: 1 / 0)
    for text in lane._transcripts:
        text.append(7, "small")
    with pytest.raises(ZeroDivisionError):
        lane.catch_up((0, 1))
    handle.remove()
    assert model.config._attn_implementation == "sdpa"
    assert not lane.cache.state.direct
    assert lane.cache.lengths == [10, 31]
    assert lane.catch_up((0, 1)).isfinite().all()


def test_others_notice_nothing_while_the_name_is_ours() -> None:
    """A padded batch and a cache of transformers, in another thread, during one of our passes."""
    model = make_model("mistral", 0)
    ids = torch.tensor([prompt_ids(1, 12), prompt_ids(2, 12)])
    padding = torch.ones_like(ids)
    padding[0, :5] = 0
    found: list[Tensor] = []

    def generate() -> None:
        out = model.generate(ids, attention_mask=padding, max_new_tokens=8, do_sample=False)
        found.append(out)
        found.append(model(ids, attention_mask=padding).logits)

    generate()
    with named(model.config, DIRECT_NAME):
        assert model.config._attn_implementation == DIRECT_NAME
        assert attention_of(model) == "sdpa"
        other = threading.Thread(target=generate)
        other.start()
        other.join()
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])


def test_the_name_stays_until_the_last_pass_has_ended() -> None:
    model = make_model("llama", 0)
    first, second = (named(model.config, DIRECT_NAME) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert model.config._attn_implementation == DIRECT_NAME
    second.__exit__(None, None, None)
    assert model.config._attn_implementation == "sdpa"
    assert not swapped._passes
