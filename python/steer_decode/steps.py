"""Where a reasoning step closes: a table over the vocabulary and a short decoded tail.

A step is text that ends with the delimiter, "\\n\\n" (STEER, arXiv 2511.06190, section 3).
Tokenizers hide it in merged tokens (".\\n\\n", ")\\n\\n") and may also split it over two tokens,
so every id of the vocabulary is decoded once: a token that holds the delimiter settles the matter,
and only a token that begins with the delimiter's second half makes the tail be decoded.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from steer_kernels import token_classes

DELIMITER = "\n\n"
MAX_STEP_TOKENS = 512


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of ``ids`` to the letter: special tokens kept, spaces not tidied."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # in a quarter of the time of the wrapper around it
        return str(backend.decode(list(ids), skip_special_tokens=False))
    return str(
        tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )


def _token_texts(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> list[str]:
    """Text of every id alone; the Rust back end decodes all of a vocabulary at once."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [decode(tokenizer, [i]) for i in range(vocab_size)]
    texts: list[str] = backend.decode_batch(
        [[i] for i in range(vocab_size)], skip_special_tokens=False
    )
    return texts


class StepBoundary:
    """Tells whether the tokens written so far make a whole step.

    A step closes at the first token at which its text has held something besides white space and
    punctuation and its end holds the delimiter; or when it is ``max_tokens`` long.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        delimiter: str = DELIMITER,
        max_tokens: int = MAX_STEP_TOKENS,
    ) -> None:
        if not delimiter:
            raise ValueError("delimiter must not be empty")
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        self.settings = delimiter, max_tokens  # as given, for one that differs in a setting
        self._tokenizer = tokenizer
        self._delimiter = delimiter
        self._max_tokens = max_tokens
        self._texts = text = _token_texts(tokenizer, vocab_size)
        suffixes = tuple(delimiter[i:] for i in range(1, len(delimiter)))
        self._classes: dict[frozenset[int], Tensor] = {}
        self._holds = [delimiter in t for t in text]
        self._continues = [t.startswith(suffixes) if suffixes else False for t in text]
        self._says_something = [any(c.isalnum() for c in t) for t in text]

    def says_something(self, ids: Sequence[int]) -> bool:
        """Whether ``ids`` hold a letter or a digit; a step without one does not close."""
        return any(self._says_something[i] for i in ids)

    def texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each id, decoded alone."""
        return [self._texts[i] for i in ids]

    def token_classes(self, end_of_text: Collection[int] = ()) -> Tensor:
        """The table of ``steer_kernels.step_update_`` for this boundary, [vocabulary] uint8.

        A delimiter that is too long for that table is left out of it.
        """
        key = frozenset(end_of_text)
        if key not in self._classes:  # a look at every token: once, not with each answer
            fits = len(self._delimiter) <= 2
            texts = self._texts if fits else [""] * len(self._texts)
            self._classes[key] = token_classes(texts, key, self._delimiter if fits else "\n\n")
        return self._classes[key]

    def closes(self, step_ids: Sequence[int]) -> bool:
        """Whether the last id of ``step_ids``, the tokens of the open step, closes it."""
        if len(step_ids) >= self._max_tokens:
            return True
        last = step_ids[-1]
        if not self._holds[last]:
            if not self._continues[last]:
                return False
            # At most one token a character: the delimiter lies within as many tokens as it is long.
            tail = decode(self._tokenizer, step_ids[-len(self._delimiter) :])
            if self._delimiter not in tail:
                return False
        return self.says_something(step_ids)


class Detokenizer:
    """Text of a growing list of ids, piece by piece.

    What a token adds depends on its neighbours (spaces, characters split over tokens), so the last
    two pieces are decoded together and the difference is what is new.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer  # held, as what decodes does not hold it
        self._ids: list[int] = []
        self._prefix = 0
        self._read = 0
        if tokenizer not in _DECODERS:
            _DECODERS[tokenizer] = _remembering(tokenizer)
        self._decode = _DECODERS[tokenizer]

    def push(self, token: int) -> str:
        """The text that ``token`` completes; empty while a character is still in parts."""
        self._ids.append(token)
        new = self._decode(*self._ids[self._prefix :])
        if new.endswith("\ufffd"):
            return ""
        old = self._decode(*self._ids[self._prefix : self._read])
        self._prefix, self._read = self._read, len(self._ids)
        return new[len(old) :]

    def flush(self) -> str:
        """What was held back, broken characters included."""
        if self._read == len(self._ids):
            return ""
        old = self._decode(*self._ids[self._prefix : self._read])
        new = self._decode(*self._ids[self._prefix :])
        self._prefix = self._read = len(self._ids)
        return new[len(old) :]

    def mark(self) -> tuple[int, int, int]:
        """A place to go back to with :meth:`reset`."""
        return len(self._ids), self._prefix, self._read

    def reset(self, mark: tuple[int, int, int]) -> None:
        length, self._prefix, self._read = mark
        del self._ids[length:]


# Of each tokenizer, for all answers: neighbours that were decoded once come again and again.
_DECODERS: WeakKeyDictionary[PreTrainedTokenizerBase, Callable[..., str]] = WeakKeyDictionary()
_REMEMBERED = 2**14  # some hundred bytes each


def _remembering(tokenizer: PreTrainedTokenizerBase) -> Callable[..., str]:
    """The text of a few ids, special tokens left out; most of them are found, not decoded."""
    # The Rust back end alone: the wrapper around it takes longer than a small model's kernels.
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return lru_cache(_REMEMBERED)(
            lambda *ids: str(backend.decode(ids, skip_special_tokens=True))
        )
    held = weakref.ref(tokenizer)  # no cycle: a tokenizer that is dropped is freed

    @lru_cache(_REMEMBERED)
    def decoded(*ids: int) -> str:
        tokenizer = held()
        assert tokenizer is not None, "whoever decodes holds the tokenizer"
        return str(
            tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    return decoded
