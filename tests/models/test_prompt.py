"""A prompt in each of its forms (text, messages, token ids), and what is put around a text."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from steer_decode import AlwaysSmall, Pair, RandomShare, Router, Session, SteerError
from steer_decode.core.token_text import decode
from support.tiny import VOCABULARY, make_model, make_pair, make_tokenizer, save_pair
from support.token_kinds import byte_fallback
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

BOS, EOS = len(VOCABULARY), 1
WORDS = [*VOCABULARY, "<bos>"]
THINKS = (
    "{{bos_token}}{% for m in messages %}w1{{m.content}}{% endfor %}w2"
    "{% if enable_thinking is defined and not enable_thinking %}w3{% endif %}"
)
USER = [{"role": "user", "content": "w5"}]


def tokenizer_with(single: str = "<bos> $A") -> PreTrainedTokenizerFast:
    """The tiny tokenizer with a BOS, and a post-processor that puts ``single`` around a text."""
    tokenizer = make_tokenizer(WORDS)
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    return tokenizer


def pair_with(tokenizer: PreTrainedTokenizerFast | None = None, template: str = THINKS) -> Pair:
    tokenizer = tokenizer or tokenizer_with()
    tokenizer.chat_template = template
    return Pair(make_model("llama", 0), make_model("llama", 1), tokenizer)


PAIR = pair_with()
ROUTER = Router(PAIR, AlwaysSmall())


def words(ids: list[int]) -> str:
    return decode(PAIR.tokenizer, ids)


@pytest.mark.parametrize("chat", [None, False])
def test_a_rendered_prompt_has_one_bos(chat: bool | None) -> None:
    rendered = PAIR.tokenizer.apply_chat_template(
        USER, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    wanted = PAIR.encode(USER, chat_template_kwargs={"enable_thinking": False})
    assert words(wanted) == "<bos>w1w5w2w3"
    assert PAIR.encode(rendered, chat=chat) == wanted
    assert PAIR.encode(rendered, chat=True) != wanted  # as asked for, it is a question


def test_a_template_without_bos_is_known_by_how_it_begins() -> None:
    tokenizer = tokenizer_with()
    tokenizer.add_special_tokens({"additional_special_tokens": ["w9"]})
    pair = pair_with(tokenizer, "w9{{ messages[0].content }}w9")
    assert words(pair.encode("w9w5w9")) == "w9w5w9"
    assert words(pair.encode("w5w9")) == "w9w5w9w9"
    assert words(pair.encode("w5", chat=False)) == "<bos>w5"


@pytest.mark.parametrize(
    ("single", "expected"),
    [("<bos> $A", "<bos>w5"), ("$A <eos>", "w5"), ("<bos> $A <eos>", "<bos>w5"), ("$A", "w5")],
)
def test_what_the_tokenizer_puts_around_a_text(single: str, expected: str) -> None:
    """BOS where it begins one; EOS nowhere, for the text goes on."""
    pair = pair_with(tokenizer_with(single))
    assert words(pair.encode("w5", chat=False)) == expected
    assert words(pair.encode("w5<eos>", chat=False)) == f"{expected}<eos>"  # asked for
    alone = Router(pair, AlwaysSmall()).generate("w5", chat=False, max_new_tokens=3)
    assert alone.token_ids


def test_no_limit_that_a_tokenizer_was_left_with_cuts_a_prompt() -> None:
    tokenizer = tokenizer_with()
    tokenizer.model_max_length = 4
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=40)
    pair = pair_with(tokenizer)
    for prompt, chat in (("w5" * 20, False), ("w5" * 20, True)):
        assert pair.encode(prompt, chat).count(VOCABULARY.index("w5")) == 20
        assert len(pair.encode(prompt, chat)) in (21, 23)


def test_the_context_is_counted_behind_the_template() -> None:
    tokenizer = tokenizer_with()
    tokenizer.chat_template = THINKS.replace("w2", "w2" * 60)
    pair = Pair(make_model("llama", 0, positions=64), make_model("llama", 1), tokenizer)
    with pytest.raises(SteerError, match=r"prompt is 68 tokens long, .* holds 64"):
        pair.encode("w5" * 6)
    room = Router(pair, AlwaysSmall()).generate("w5", max_new_tokens=40)
    assert len(room.trace.prompt_ids) + len(room.token_ids) <= 64


DOORS: dict[str, Callable[..., list[int]]] = {
    "generate": lambda prompt, **k: ROUTER.generate(prompt, **k).trace.prompt_ids,
    "generate, a list": lambda prompt, **k: ROUTER.generate([prompt], **k)[0].trace.prompt_ids,
    "stream": lambda prompt, **k: ROUTER.stream(prompt, **k).trace.prompt_ids,
    "cohort": lambda prompt, **k: ROUTER.cohort([prompt], **k)[0].trace.prompt_ids,
    "session": lambda prompt, **k: Session(ROUTER).stream(prompt, **k).trace.prompt_ids,
}


@pytest.mark.parametrize("door", DOORS)
def test_arguments_of_the_template_at_every_door(door: str) -> None:
    told = {"enable_thinking": False}
    assert words(DOORS[door](USER, max_new_tokens=1)) == "<bos>w1w5w2"
    ids = DOORS[door](USER, max_new_tokens=1, chat_template_kwargs=told)
    assert words(ids) == "<bos>w1w5w2w3"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("make", [list, tuple, torch.tensor, numpy.array])
def test_token_ids_at_every_door(door: str, make: Callable[[list[int]], Any]) -> None:
    ids = [BOS, 5, 12, 13]
    assert DOORS[door](make(ids), max_new_tokens=1) == ids
    with pytest.raises(SteerError, match=r"prompt holds token id 39, but .* below 35"):
        DOORS[door](make([5, 39]), max_new_tokens=1)
    with pytest.raises(SteerError, match=r"prompt holds token id -1"):
        DOORS[door](make([5, -1]), max_new_tokens=1)


def test_ids_are_answered_as_the_text_that_they_are() -> None:
    text = ROUTER.generate("w5w6", chat=False, max_new_tokens=8)
    ids = ROUTER.generate([BOS, *map(VOCABULARY.index, ("w5", "w6"))], max_new_tokens=8)
    assert ids.token_ids == text.token_ids
    both = ROUTER.generate([[BOS, 5], torch.tensor([BOS, 6])], max_new_tokens=2)
    assert [output.trace.prompt_ids for output in both] == [[BOS, 5], [BOS, 6]]


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (torch.ones(2, 3, dtype=torch.long), {}, r"one row \[n\], got an array of shape \[2, 3\]"),
        (torch.ones(3), {}, "token id 0 of the prompt must be a whole number, got 1.0"),
        ([5, "w1"], {}, "token id 1 of the prompt must be a whole number, got 'w1'"),
        ([5, True], {}, "token id 1 of the prompt must be a whole number, got True"),
        (torch.ones(0, dtype=torch.long), {}, "prompt has no tokens"),
        ([5], {"chat": True}, "chat=True asks for a chat template, but the prompt is token ids"),
        ([5], {"chat_template_kwargs": {"enable_thinking": True}}, "but the prompt is token ids"),
        ("w1", {"chat": False, "chat_template_kwargs": {"x": 1}}, "a text without a template"),
        ("w1", {"chat_template_kwargs": {"enable_thinkin_": 1}}, "reads no argument 'enable_th"),
        ("w1", {"chat_template_kwargs": {"tokenize": True}}, "cannot set 'tokenize'"),
        ("w1", {"chat_template_kwargs": ["x"]}, r"must be a mapping .* got \['x'\]"),
    ],
)
def test_prompts_and_arguments_that_cannot_be_meant(
    prompt: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SteerError, match=message):
        ROUTER.generate(prompt, **options)


def test_rows_of_a_tensor_are_not_a_cohort_by_themselves() -> None:
    with pytest.raises(SteerError, match=r"prompts must be a list .* got Tensor"):
        ROUTER.cohort(torch.ones(2, 3, dtype=torch.long))  # type: ignore[arg-type]


def test_a_system_message_that_a_template_refuses_is_one_sentence() -> None:
    refuses = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}w1{{ messages[0].content }}"
    )
    pair = pair_with(template=refuses)
    told = [{"role": "system", "content": "w6"}, *USER]
    with pytest.raises(SteerError, match=r"System role not supported .*leave it out") as caught:
        Router(pair, AlwaysSmall()).generate(told)
    assert "\n" not in str(caught.value)


def folders(tmp_path: Path, small: str | None, large: str | None) -> tuple[Path, Path]:
    paths = save_pair(tmp_path)
    for path, template in zip(paths, (small, large), strict=True):
        tokenizer = make_tokenizer()
        tokenizer.chat_template = template
        tokenizer.save_pretrained(path)
    return paths


@pytest.mark.parametrize(("small", "large"), [("w7", None), (None, "w7"), ("w7", "w7")])
def test_the_template_of_either_model_is_used(
    small: str | None, large: str | None, tmp_path: Path
) -> None:
    ends = "{{ messages[0].content }}"
    texts = [None if lead is None else lead + ends for lead in (small, large)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pair = Pair.from_pretrained(*folders(tmp_path, *texts), device="cpu")
    assert decode(pair.tokenizer, pair.encode("w5")) == "w7w5"


def test_templates_that_differ_are_said(tmp_path: Path) -> None:
    paths = folders(tmp_path, "w7{{ messages[0].content }}", "w8{{ messages[0].content }}")
    with pytest.warns(UserWarning, match="the small model's is used"):
        pair = Pair.from_pretrained(*paths, device="cpu")
    assert decode(pair.tokenizer, pair.encode("w5")) == "w7w5"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pair.from_pretrained(*paths, device="cpu", chat_template="{{ messages[0].content }}")


def byte_pair(template: str) -> Pair:
    """A pair whose tokenizer puts a space before a text's first word."""
    tokenizer = byte_fallback()
    tokenizer.chat_template = template
    rows = len(tokenizer)
    small, large = (make_model("llama", seed, rows=rows) for seed in (0, 1))
    for model in (small, large):
        with torch.no_grad():  # letters and spaces: one of two opposite ones beats all bytes
            head = model.get_output_embeddings().weight
            head[: rows - 6] = 0
            head[-1] = -head[-2]
    return Pair(small, large, tokenizer)


@pytest.mark.parametrize("marks", [("a:", ".b:"), ("a: ", "\nb: "), ("a\n", "b")], ids=repr)
def test_a_second_turn_has_no_space_too_many(marks: tuple[str, str]) -> None:
    ask, reply = marks
    pair = byte_pair(
        "{% for m in messages %}{{ {'user': ASK, 'assistant': REPLY}[m.role] }}{{ m.content }}"
        "{% endfor %}{{ REPLY }}".replace("ASK", repr(ask)).replace("REPLY", repr(reply))
    )
    session = Session(Router(pair, RandomShare(0.5)))
    messages = [{"role": "user", "content": "ab1"}]
    first = session.stream(messages, max_new_tokens=6)
    first.finish()
    said = [*first.trace.prompt_ids, *first.output.token_ids]
    messages += [
        {"role": "assistant", "content": first.output.text},
        {"role": "user", "content": "1ab b"},
    ]
    second = session.stream(messages, max_new_tokens=1)
    ids = second.trace.prompt_ids
    assert ids[: len(said)] == said
    rest = pair.render(messages).rpartition(first.output.text)[2]
    assert decode(pair.tokenizer, ids) == decode(pair.tokenizer, said) + rest
    assert second.reused["small"] + second.reused["large"] > 0


def test_a_base_model_s_tokenizer_needs_no_template_for_ids_and_texts() -> None:
    pair = make_pair("llama")
    assert pair.encode([5, 6]) == [5, 6]
    with pytest.raises(SteerError, match="a text without a template"):
        pair.encode("w1", chat_template_kwargs={"enable_thinking": False})
