"""Text of a growing list of ids, for a reader."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from .token_text import START, Reading, TokenTexts


class Detokenizer:
    """Text of a growing list of ids, piece by piece.

    It is for a reader, so special tokens are left out. Each token costs the same, however long a
    character stays in parts or bytes are broken.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer  # held, as what decodes does not hold it
        self._texts = TokenTexts.of(tokenizer)
        self._state = START

    def push(self, token: int) -> str:
        """The text that ``token`` completes.

        It is empty while a character is still in parts.
        """
        if token in self._texts.special:
            return ""
        text, self._state = self._texts.push(self._state, token)
        return text

    def flush(self) -> str:
        """What was held back, broken characters included."""
        text = self._texts.flush(self._state)
        self._state = Reading(self._state.last)
        return text

    def mark(self) -> Reading:
        """A place to go back to with :meth:`reset`."""
        return self._state

    def reset(self, mark: Reading) -> None:
        """Go back to where :meth:`mark` was taken."""
        self._state = mark
