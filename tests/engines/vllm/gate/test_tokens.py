"""The table of a device closes steps where the scan of the host does."""

from __future__ import annotations

import random

import pytest
from steer_decode import Pair
from steer_decode.core.boundary import StepBoundary
from steer_decode.demo import pair_paths
from steer_decode.engines.vllm.gate_tokens import Deeds, GateTokens
from support.tiny import make_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

# Blank lines whole, with blanks in them, with carriage returns, and over several tokens.
WORDS = ["<unk>", "<eos>", "\n", "\r\n", "\n ", " ", "  \n\t", "\n\n", ".\n", ".\n\n", "\n\nw", "w"]


def closings(deeds: list[Deeds], ids: list[int]) -> list[int]:
    """Where steps close by the table."""
    found, said, broke = [], False, False
    for i, token in enumerate(ids):
        does = deeds[token]
        said = said or does.says
        closed = said and (does.closes_after if broke else does.closes)
        broke = does.breaks_after if broke else does.breaks
        if closed:
            found.append(i)
            said = broke = False
    return found


def scanned(boundary: StepBoundary, ids: list[int]) -> list[int]:
    found, scan = [], boundary.scan()
    for i, token in enumerate(ids):
        if scan.push(token):
            found.append(i)
            scan = boundary.scan()
    return found


def check(tokenizer: PreTrainedTokenizerBase, ids: range) -> None:
    tokens = GateTokens(tokenizer)
    deeds = [Deeds(*row) for row in tokens.table(tokens.size + 3).tolist()]
    boundary = StepBoundary(tokenizer, tokens.size)
    draw = random.Random(5)
    breaks = [i for i in ids if any(deeds[i][1:])]
    some = 0
    for _ in range(300):
        text = [draw.choice(breaks if draw.random() < 0.3 else ids) for _ in range(25)]
        wanted = scanned(boundary, text)
        assert closings(deeds, text) == wanted
        some += len(wanted)
    assert some > 300


def test_the_table_says_what_the_scan_says() -> None:
    check(make_tokenizer(WORDS), range(len(WORDS)))


def test_of_a_trained_tokenizer_too() -> None:
    check(AutoTokenizer.from_pretrained(pair_paths()[0]), range(253))


@pytest.mark.parametrize("delimiter", ["\n\n", ";", "ab"])
def test_the_scan_is_that_of_the_loop(delimiter: str) -> None:
    tokenizer = make_tokenizer(["<unk>", "<eos>", "a", "b", ";", "\n", "\n\n", "w"])
    tokens = GateTokens(tokenizer)
    boundary = StepBoundary(tokenizer, 8, delimiter, 7)
    draw = random.Random(2)
    for _ in range(50):
        scan, ids = tokens.scan(delimiter, 7), draw.choices(range(8), k=12)
        for token, other in zip(ids, [boundary.scan()] * 12, strict=True):
            assert scan.push(token) == other.push(token)


def test_columns_beyond_the_tokens_leave_a_step_as_it_is() -> None:
    tokens = GateTokens(make_tokenizer(WORDS))
    assert tokens.size == len(WORDS)
    assert tokens.table(20).tolist()[12:] == [[False, False, False, False, True]] * 8


def test_pairs_have_the_same_size(pair_of_demo: Pair) -> None:
    assert GateTokens(pair_of_demo.tokenizer).size == pair_of_demo.vocab_size


@pytest.fixture(scope="module")
def pair_of_demo() -> Pair:
    return Pair.from_pretrained(*pair_paths())
