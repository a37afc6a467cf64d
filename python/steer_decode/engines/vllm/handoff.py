"""Which token says that a model hands over."""

from __future__ import annotations

import re
from collections.abc import Collection

from transformers import PreTrainedTokenizerBase

from ...core.token_text import TokenTexts

_SPARE = re.compile(r"reserved|unused|fim_pad|extra_id|control", re.IGNORECASE)


def handoff_of(tokenizer: PreTrainedTokenizerBase, rows: int, ends: Collection[int]) -> int | None:
    """An id that no text uses.

    A token that the makers of the vocabulary kept in reserve, else a row of the head that is no
    token's, else the token for unknown words.

    Args:
        tokenizer: of the model.
        rows: of its head.
        ends: ids that end an answer, which are none.

    Returns:
        None where there is none.
    """
    spare = [i for word, i in tokenizer.get_vocab().items() if _SPARE.search(word)]
    special = TokenTexts.of(tokenizer).special
    in_reserve = sorted(i for i in spare if i in special or _bracketed(tokenizer, i))
    unknown = [] if tokenizer.unk_token_id is None else [tokenizer.unk_token_id]
    padding = range(TokenTexts.of(tokenizer).size, rows)
    used = {*ends, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    found = (i for i in (*in_reserve, *padding[:1], *unknown) if i not in used and i < rows)
    return next(found, None)


def _bracketed(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    """Whether a token stands for itself alone, as ``<unused7>``; and is no part of words."""
    word = str(tokenizer.convert_ids_to_tokens(token))
    return word[:1] in "<[" and word[-1:] in ">]"
