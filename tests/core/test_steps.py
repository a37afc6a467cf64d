"""Where a step closes, whatever way the tokenizer splits the delimiter, and text piece by piece."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from steer_decode.core.boundary import StepBoundary
from steer_decode.core.detokenizer import Detokenizer
from support.tiny import VOCABULARY, make_tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

TOKENIZER = make_tokenizer()
BOUNDARY = StepBoundary(TOKENIZER, len(VOCABULARY))
IDS = {word: i for i, word in enumerate(VOCABULARY)}


def closes(*words: str) -> list[bool]:
    ids = [IDS[w] for w in words]
    return [BOUNDARY.closes(ids[: i + 1]) for i in range(len(ids))]


def test_the_delimiter_as_a_token_of_its_own_and_within_one() -> None:
    assert closes("w1", "\n\n") == [False, True]
    assert closes("w1", ".\n\n") == [False, True]


def test_the_delimiter_split_over_two_tokens() -> None:
    assert closes("w1", "\n", "\n") == [False, False, True]
    assert closes("w1", "\n", "w2", "\n") == [False] * 4


def test_space_and_punctuation_alone_do_not_close() -> None:
    assert closes("\n\n", ".\n\n", "w1") == [False] * 3
    assert closes("\n\n", "w1", "\n\n") == [False, False, True]


def test_a_step_is_capped() -> None:
    boundary = StepBoundary(TOKENIZER, len(VOCABULARY), max_tokens=3)
    assert [boundary.closes([12] * n) for n in (1, 2, 3)] == [False, False, True]
    with pytest.raises(ValueError, match="max_tokens must be at least 1, got 0"):
        StepBoundary(TOKENIZER, len(VOCABULARY), max_tokens=0)


@given(st.lists(st.sampled_from(VOCABULARY[2:]), min_size=1, max_size=30))
def test_the_table_agrees_with_the_text(words: list[str]) -> None:
    """A step closes where its text first holds a delimiter that ends after a word."""
    text = ""
    for i, word in enumerate(words):
        old, text = text, text + word
        completed = "\n\n" in text[max(0, len(old) - 1) :]
        expected = completed and any(c.isalnum() for c in text)
        assert BOUNDARY.closes([IDS[w] for w in words[: i + 1]]) == expected
        if expected:
            return


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that a character beyond ASCII is several tokens."""
    vocabulary = {f"<0x{b:02X}>": b for b in range(256)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<0x00>"))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@given(st.text(max_size=20).filter(lambda t: "\ufffd" not in t))
def test_pieces_join_to_the_text(text: str) -> None:
    detokenizer = Detokenizer(byte_tokenizer())
    pieces = [detokenizer.push(b) for b in text.encode()]
    assert "".join(pieces) + detokenizer.flush() == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_text_goes_back_to_a_mark() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    detokenizer.push(IDS["w1"])
    mark = detokenizer.mark()
    detokenizer.push(IDS["w2"])
    detokenizer.reset(mark)
    assert detokenizer.push(IDS["w3"]) == "w3"
