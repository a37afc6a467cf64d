"""Two vocabularies, compared token by token."""

from __future__ import annotations

from typing import NamedTuple

from transformers import PreTrainedTokenizerBase


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
