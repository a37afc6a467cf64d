"""Compares two vocabularies; reads the ids that end an answer."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from ..errors import SteerError


class Difference(NamedTuple):
    """An id that stands for another token in either tokenizer.

    None where it stands for none.
    """

    id: int
    small: str | None
    large: str | None


def differences(
    small: PreTrainedTokenizerBase, large: PreTrainedTokenizerBase
) -> tuple[Difference, ...]:
    """Ids with another token in either tokenizer, in order."""
    ours = {i: token for token, i in small.get_vocab().items()}
    theirs = {i: token for token, i in large.get_vocab().items()}
    if ours == theirs:
        return ()
    ids = sorted(i for i in ours.keys() | theirs.keys() if ours.get(i) != theirs.get(i))
    return tuple(Difference(i, ours.get(i), theirs.get(i)) for i in ids)


def vocabulary_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A name of a tokenizer's vocabulary.

    It is made of the tokens with their ids.
    """
    known = sorted((i, token) for token, i in tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def eos_of(name: str, source: Any) -> list[int]:
    """Read the ids that end an answer.

    They stand in a generation config, a config or a tokenizer, called ``name``.

    Raises:
        SteerError: one of them is no token id.
    """
    eos = getattr(source, "eos_token_id", None)
    if eos is None:
        return []
    if isinstance(eos, torch.Tensor):
        eos = eos.tolist()
    found = eos if isinstance(eos, list | tuple) else [eos]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in found):
        raise SteerError(
            f"eos_token_id of {name} must be a token id or a list of them, got {eos!r}: mend it"
        )
    return list(found)


def check_same_vocabulary(small: PreTrainedTokenizerBase, large: PreTrainedTokenizerBase) -> None:
    """Compare two tokenizers by content, id by id.

    Raises:
        SteerError: they differ; the message names the first id that does.
    """
    found = differences(small, large)
    if not found:
        return
    first = found[0]
    words = [repr(word) if word is not None else "nothing" for word in first[1:]]
    sizes = len(small.get_vocab()), len(large.get_vocab())
    raise SteerError(
        f"the tokenizers differ: id {first.id} is {words[0]} in the small model's ({sizes[0]} "
        f"tokens) and {words[1]} in the large model's ({sizes[1]} tokens); token ids travel "
        "between the models, so choose two models of one family"
    )
