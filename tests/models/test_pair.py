"""A pair is checked by content before anything is written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from steer_decode import AlwaysSmall, Pair, Router, SteerError
from steer_decode.models.pair import check_same_vocabulary
from support.tiny import VOCABULARY, make_model, make_pair, make_tokenizer, prompt_text, save_pair


def test_loads_from_folders_in_float32_on_a_cpu(tmp_path: Path) -> None:
    pair = Pair.from_pretrained(*save_pair(tmp_path), device="cpu")
    assert pair.small.dtype == pair.large.dtype == torch.float32
    assert pair.vocab_size == len(VOCABULARY)
    assert pair.eos_ids == {1}
    assert pair.max_length == 512


def test_an_unknown_path_is_one_sentence(tmp_path: Path) -> None:
    small, _ = save_pair(tmp_path)
    with pytest.raises(SteerError, match=r"the large model .*nowhere': there is no such folder"):
        Pair.from_pretrained(small, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SteerError, match=r"cannot load the large model .*empty'") as caught:
        Pair.from_pretrained(small, tmp_path / "empty")
    assert "\n" not in str(caught.value)


def test_the_first_difference_between_tokenizers_is_named() -> None:
    words = list(VOCABULARY)
    words[20], words[21] = words[21], words[20]
    with pytest.raises(SteerError, match=rf"id 20 is '{VOCABULARY[20]}' .* and '{words[20]}'"):
        check_same_vocabulary(make_tokenizer(), make_tokenizer(words))
    with pytest.raises(SteerError, match=rf"id {len(VOCABULARY)} is nothing .* and 'more'"):
        check_same_vocabulary(make_tokenizer(), make_tokenizer([*VOCABULARY, "more"]))


def test_heads_of_different_size_are_no_difference() -> None:
    pair = make_pair("qwen2")
    assert pair.small.config.vocab_size != pair.large.config.vocab_size
    check_same_vocabulary(pair.tokenizer, make_tokenizer())
    assert pair.vocab_size == len(VOCABULARY)


def test_ends_that_change_after_an_answer_are_seen() -> None:
    pair = make_pair("llama")
    router = Router(pair, AlwaysSmall())
    free = router.generate("w1 w2", max_new_tokens=40).token_ids
    at, end = next((i, t) for i, t in enumerate(free) if i > 3 and free.index(t) == i)
    for model in (pair.small, pair.large):
        model.generation_config.eos_token_id = [1, end]
    assert pair.eos_ids == {1, end}
    assert router.generate("w1 w2", max_new_tokens=40).token_ids == free[: at + 1]


def test_tokens_that_are_added_after_an_answer_are_known() -> None:
    """They take the place of padding rows, as in models whose head is wider than their words."""
    pair = make_pair("llama")
    router = Router(pair, AlwaysSmall(), ahead=4)
    router.generate("w1", max_new_tokens=4)
    new = pair.vocab_size
    with pytest.raises(SteerError, match=rf"prompt holds token id {new}"):
        pair.encode([5, new])
    pair.tokenizer.add_tokens(["word\n\n"])
    assert pair.vocab_size == new + 1
    assert pair.encode("w1word\n\n")[-1] == new
    with torch.no_grad():  # nothing but the new word
        pair.small.get_output_embeddings().weight.zero_()
        pair.small.get_output_embeddings().weight[new] = pair.small.model.norm.weight
        pair.small.model.embed_tokens.weight.copy_(torch.ones_like(pair.small.model.norm.weight))
    output = router.generate([5, new], max_new_tokens=12)
    assert output.token_ids[0] == new
    assert output.trace.steps[0].text == "word\n\n"


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(SteerError, match="prompt is empty"):
        make_pair("llama").encode(prompt)


@pytest.mark.parametrize(
    "prompt", ["w1 \udcff w2", [{"role": "user", "content": "\ud800"}]], ids=["text", "messages"]
)
def test_what_is_no_unicode_text_is_refused(prompt: Any) -> None:
    pair = make_pair("llama")
    pair.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    for chat in (True, False):
        with pytest.raises(SteerError, match=r"prompt holds '.ud[\da-f]+', which"):
            pair.encode(prompt, chat=chat)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pair("a", "b", make_tokenizer()), "small model must be a model of transform.*'a'"),  # type: ignore[arg-type]
        (lambda: Pair.from_pretrained(None, "b"), "small model must be a folder or .* got None"),  # type: ignore[arg-type]
        (lambda: Pair.from_pretrained("a", "b", device="gpu"), "device 'gpu' cannot be used .*cpu"),
        (lambda: Router("a", AlwaysSmall()), "pair must be two models.*'a'"),  # type: ignore[arg-type]
        (
            lambda: Router(make_pair("llama"), AlwaysSmall(), "x"),  # type: ignore[arg-type]
            "boundary must be a StepBoundary, got 'x'",
        ),
    ],
)
def test_what_is_no_model_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SteerError, match=message):
        make()


def test_a_model_without_weights_is_refused() -> None:
    pair = make_pair("llama")
    with pytest.raises(SteerError, match="the large model has weights that are not in memory"):
        Pair(pair.small, copy.deepcopy(pair.large).to("meta"), pair.tokenizer)


def test_a_prompt_longer_than_the_context_is_refused_with_both_lengths() -> None:
    pair = make_pair("llama", positions=16)
    with pytest.raises(SteerError, match=r"prompt is \d\d tokens long, .* holds 16"):
        pair.encode(prompt_text(0, length=30))


def test_messages_need_a_template() -> None:
    pair = make_pair("llama")
    messages = [{"role": "user", "content": "w1 w2"}]
    with pytest.raises(SteerError, match="no chat template"):
        pair.encode(messages)
    pair.tokenizer.chat_template = (
        "w9{{ messages[0]['content'] }}{% if add_generation_prompt %}w8{% endif %}"
    )
    ids = pair.encode(messages)
    assert pair.tokenizer.decode(ids) == "w9w1 w2w8"
    assert pair.encode("w1 w2") == ids  # a text is one user message where there is a template
    assert pair.tokenizer.decode(pair.encode("w1 w2", chat=False)) == "w1 w2"


def test_the_fingerprint_is_of_the_weights_not_of_path_or_dtype(tmp_path: Path) -> None:
    pair = make_pair("qwen2", 0)
    assert pair.fingerprint == make_pair("qwen2", 0).fingerprint
    assert pair.fingerprint != make_pair("qwen2", 5).fingerprint
    swapped = Pair(pair.large, pair.small, pair.tokenizer)
    assert pair.fingerprint != swapped.fingerprint
    folders = save_pair(tmp_path, "qwen2", 0)
    loaded = Pair.from_pretrained(*folders, dtype=torch.bfloat16, device="cpu")
    assert loaded.fingerprint == pair.fingerprint


def test_stateful_models_are_refused_by_name() -> None:
    model = make_model("qwen2", 0)
    model.config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(SteerError, match=r"large model .* linear_attention"):
        Pair(make_model("qwen2", 1), model, make_tokenizer())
