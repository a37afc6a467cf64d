"""What each token brings to a text, in constant time.

It holds for every tokenizer. A token's text depends on what stands before it: a space that is
dropped at a text's beginning, a character that is split over several tokens. So a text is read with
a small state. Most tokens bring what decoding them behind the token before them adds; tokens that
are bytes are put together here.

Two decoders put bytes together in two ways, and both are kept to the letter:

- byte-level ones (GPT-2, Llama 3, Qwen) join all bytes; what is broken is replaced piece by piece;
- byte fallback (`<0x0A>`, Llama 2, Gemma) takes a run of byte tokens together: either all of it is
  UTF-8, or each of its bytes becomes U+FFFD. Pieces that were given away before the run broke stay.
"""

from __future__ import annotations

import re
import weakref
from codecs import utf_8_decode
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

BROKEN = "\ufffd"
_REMEMBERED = 2**14  # pairs of neighbours, some hundred bytes each: they come again and again
_HELD = 8  # tokens without known bytes that may wait for the rest of a character
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Decode ``ids`` to the letter.

    Special tokens are kept, spaces are not tidied.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # in a quarter of the time of the wrapper around it
        return str(backend.decode(list(ids), skip_special_tokens=False))
    return str(
        tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )


class Reading(NamedTuple):
    """How far a text has been read.

    Fields:
        last: the last token that brought text, where what follows depends on it.
        pending: bytes of a character that is not whole.
        run: the last token was a byte of byte fallback.
        broken: the run that it belongs to is no UTF-8.
        held: tokens that end within a character, and whose bytes are not known.
    """

    last: int | None = None
    pending: bytes = b""
    run: bool = False
    broken: bool = False
    held: tuple[int, ...] = ()


START = Reading()


class TokenTexts:
    """The texts of a tokenizer's tokens.

    :meth:`of` finds those of its vocabulary as it is now.

    Attributes:
        special: ids that are left out of a text for readers.
        in_runs: bytes are put together by byte fallback.
        text: of a token alone.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._wrapper = weakref.ref(tokenizer)  # no cycle: a tokenizer that is dropped is freed
        self.state = _state(tokenizer)
        decoder = _decoder(self._backend)
        self._joins = decoder.startswith('{"type":"ByteLevel"')  # then no token has neighbours
        self.in_runs = "ByteFallback" in decoder
        if self._backend is not None:
            added = self._backend.get_added_tokens_decoder().items()
            self.special = frozenset(i for i, token in added if token.special)
        else:
            self.special = frozenset(tokenizer.all_special_ids)
        self._known = lru_cache(_REMEMBERED)(self._find)
        self._bytes_of: Callable[[int], bytes | None] = lru_cache(_REMEMBERED)(self._find_bytes)
        self.text: Callable[[int], str] = lru_cache(_REMEMBERED)(self._decode)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> TokenTexts:
        """Those of ``tokenizer``, made anew where tokens were added since."""
        texts = _TEXTS.get(tokenizer)
        if texts is None or texts.state != _state(tokenizer):
            texts = _TEXTS[tokenizer] = cls(tokenizer)
        return texts

    @cached_property
    def size(self) -> int:
        """One more than the largest id."""
        return 1 + max(self._tokenizer.get_vocab().values())

    def push(self, before: Reading, token: int) -> tuple[str, Reading]:
        """The text that ``token`` completes, and the new reading state."""
        known = self._known(before.last, token)
        if known is not None:
            text, after = known
            if after is None:  # it brings nothing, and parts nothing
                return "", before
            if before.pending or before.held:
                text = self.flush(before) + text
            return text, after
        raw = self._bytes_of(token)
        if raw is None:
            return self._hold(before, token)
        if before.held:
            text, after = self.push(Reading(before.last), token)
            return self.flush(before) + text, after
        return self._join(before, token, raw)

    def flush(self, state: Reading) -> str:
        """The text of what waits, as if nothing more came.

        The rest of a character may be waiting.
        """
        if state.held:
            return self._behind(state.last, *state.held)
        if self.in_runs:
            return BROKEN * len(state.pending)
        return utf_8_decode(state.pending, "replace", True)[0]

    def continues(self, token: int) -> bool:
        """Whether ``token`` is a later byte of a character.

        Under byte fallback only.
        """
        raw = self._bytes_of(token) if self.in_runs else None
        return raw is not None and raw[0] & 0xC0 == 0x80

    def alone(self, size: int) -> list[str]:
        """The text of each id below ``size``, decoded alone."""
        if self._backend is None:
            return [self._decode(i) for i in range(size)]
        texts: list[str] = self._backend.decode_batch(
            [[i] for i in range(size)], skip_special_tokens=False
        )
        return texts

    def _join(self, before: Reading, token: int, raw: bytes) -> tuple[str, Reading]:
        last = None if self._joins else token
        if before.broken:
            return BROKEN * len(raw), before
        data = before.pending + raw
        try:
            text, used = utf_8_decode(data, "strict" if self.in_runs else "replace", False)
        except UnicodeDecodeError:
            return BROKEN * len(data), Reading(last, run=True, broken=True)
        if before.last is None and text[:1] == " " and self._strips:
            text = text[1:]
        return text, Reading(last, data[used:], run=self.in_runs)

    def _hold(self, before: Reading, token: int) -> tuple[str, Reading]:
        """Waits for the rest of a character where the bytes of its tokens are not known."""
        if before.pending:
            text, after = self._hold(Reading(before.last), token)
            return self.flush(before) + text, after
        held = (*before.held, token)
        text = self._behind(before.last, *held)
        if text.endswith(BROKEN) and len(held) < _HELD:
            return "", Reading(before.last, held=held)
        return text, Reading(token)

    def _find(self, last: int | None, token: int) -> tuple[str, Reading | None] | None:
        """What ``token`` adds behind ``last``, if that is whole characters; None for bytes."""
        if self._bytes_of(token) is not None or self._opaque(token):
            return None
        if self._joins:
            text = self._decode(token)
            return text, START if text else None
        text = self._behind(last, token)
        # A token may bring text and lose it again: the space at a text's beginning.
        return text, Reading(token) if text or self._decode(token, token) else None

    def _behind(self, last: int | None, *ids: int) -> str:
        """What ``ids`` add to a text that ends with ``last``."""
        old = "" if last is None else self._decode(last)
        new = self._decode(*ids) if last is None else self._decode(last, *ids)
        return new[len(old) :] if new.startswith(old) else self._decode(*ids)

    def _find_bytes(self, token: int) -> bytes | None:
        word = self._word(token)
        alone = self._decode(token)
        fallback = _BYTE.fullmatch(word)
        if fallback is not None and alone != word:
            return bytes([int(fallback[1], 16)])
        if BROKEN not in alone:
            return None
        try:
            raw = bytes(_LETTERS[letter] for letter in word)
        except KeyError:
            return None
        return raw if raw.decode("utf-8", "replace") == alone else None

    def _opaque(self, token: int) -> bool:
        return BROKEN in self._decode(token) and BROKEN not in self._word(token)

    @cached_property
    def _strips(self) -> bool:
        """Whether a byte that is a space is dropped at a text's beginning."""
        space = self._tokenizer.get_vocab().get("<0x20>")
        return space is not None and not self._decode(space)

    def _word(self, token: int) -> str:
        if self._backend is not None:
            return str(self._backend.id_to_token(token) or "")
        return str(self._tokenizer.convert_ids_to_tokens(token))

    def _decode(self, *ids: int) -> str:
        if self._backend is not None:
            return str(self._backend.decode(ids, skip_special_tokens=False))
        return decode(self._tokenizer, ids)

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer = self._wrapper()
        assert tokenizer is not None, "whoever decodes holds the tokenizer"
        return tokenizer


_TEXTS: WeakKeyDictionary[PreTrainedTokenizerBase, TokenTexts] = WeakKeyDictionary()


def _state(tokenizer: PreTrainedTokenizerBase) -> Hashable:
    """What the texts of a tokenizer depend on, as far as users change it: its tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return len(tokenizer), tuple(tokenizer.all_special_ids)
    added = backend.get_added_tokens_decoder().items()
    tokens = frozenset((i, token.content, token.special) for i, token in added)
    return backend.get_vocab_size(), tokens


def _decoder(backend: object) -> str:
    """The decoder of a tokenizer of the Rust library, as JSON; "" where there is none."""
    decoder = getattr(backend, "decoder", None)
    return "" if decoder is None else bytes(decoder.__getstate__()).decode()


def _letters() -> dict[str, int]:
    """The letter that stands for each byte in a byte-level vocabulary, as GPT-2 chose them."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(b): b for b in own} | {chr(256 + i): b for i, b in enumerate(others)}


_LETTERS = _letters()
