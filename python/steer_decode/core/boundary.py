"""Where a step closes.

Each token is looked at once, with a short tail of the text before it. A step is text that ends with
the delimiter, "\\n\\n" (STEER, arXiv 2511.06190, section 3). Tokenizers hide it in merged tokens
(".\\n\\n", ")\\n\\n"), split it over two, or write it in bytes, several of which may be one
character. So the rule is one over text, and each token is asked what text it brings where it
stands.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from steer_kernels import token_classes

from ..errors import SteerError
from ..util.checks import whole
from .token_text import BROKEN, START, Reading, TokenTexts

DELIMITER = "\n\n"
MAX_STEP_TOKENS = 512
_REMEMBERED = 2**14
# What the delimiter means: a line break, and another with nothing to be seen between them. So do
# lines that end with "\r\n", and blank lines with blanks in them.
_BLANK_LINE = re.compile(r"\n\s*\n")
_LINE_END = re.compile(r"\n\s*\Z")
_AROUND_BREAKS = re.compile(r"[^\S\n]*\n[^\S\n]*")


class StepBoundary:
    """The rule by which tokens make a whole step.

    A step closes at the first token that completes the delimiter in a text with a letter or a
    digit; or when it is ``max_tokens`` long. Special tokens are part of that text. The delimiter
    "\\n\\n" is any blank line; others are taken to the letter.

    Args:
        tokenizer: what the ids mean. Tokens may be added to it later.
        vocab_size: ids of the table of :meth:`token_classes`.
        delimiter: the text that closes a step.
        max_tokens: most tokens of a step.

    Raises:
        SteerError: an empty delimiter, or one with U+FFFD; ``max_tokens`` below 1.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        delimiter: str = DELIMITER,
        max_tokens: int = MAX_STEP_TOKENS,
    ) -> None:
        if not isinstance(delimiter, str) or not delimiter:
            raise SteerError(f"delimiter must not be empty: give a text, got {delimiter!r}")
        if BROKEN in delimiter:
            raise SteerError("delimiter holds U+FFFD, which stands for broken bytes: leave it out")
        max_tokens = whole("max_tokens", max_tokens)
        if max_tokens < 1:
            raise SteerError(f"max_tokens must be at least 1, got {max_tokens}")
        self.settings = delimiter, max_tokens  # as given, for one that differs in a setting
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._delimiter = delimiter
        self._classes: dict[tuple[object, ...], Tensor] = {}
        self.look = lru_cache(_REMEMBERED)(self._look)

    def __reduce__(self) -> tuple[Any, ...]:
        # Made anew from a pickle: what it remembers is bound to it.
        return StepBoundary, (self._tokenizer, self._vocab_size, *self.settings)

    def scan(self, ids: Sequence[int] = (), texts: TokenTexts | None = None) -> StepScan:
        """Start an open step, to be read token by token.

        Args:
            ids: its tokens so far.
            texts: of the tokenizer, where they are at hand.
        """
        scan = StepScan(self, texts or TokenTexts.of(self._tokenizer))
        for token in ids:
            scan.push(token)
        return scan

    def closes(self, step_ids: Sequence[int]) -> bool:
        """Whether the last id of the open step closes it.

        ``step_ids`` are the tokens of the open step, from its beginning; :meth:`scan` says the same
        with one look at each token.
        """
        scan = self.scan(step_ids[:-1])
        return scan.push(step_ids[-1])

    def says_something(self, ids: Sequence[int]) -> bool:
        """Whether ``ids`` hold a letter or a digit.

        A step without one does not close.
        """
        return self.scan(ids).said

    def texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each id, decoded alone."""
        texts = TokenTexts.of(self._tokenizer)
        return [texts.text(token) for token in ids]

    def closing(self, vocab_size: int) -> tuple[int, ...]:
        """Ids whose text alone holds the delimiter.

        Each closes a step that says something. Others close one together with what stands before
        them, so :class:`StepScan` has the last word.
        """
        words = TokenTexts.of(self._tokenizer).alone(vocab_size)
        return tuple(i for i, word in enumerate(words) if self._look("", word)[0])

    def token_classes(
        self, end_of_text: Collection[int] = (), vocab_size: int | None = None
    ) -> Tensor:
        """The table of ``steer_kernels.step_update_`` for this boundary, [vocabulary] uint8.

        It lets a device notice most ends of a step by itself; :class:`StepScan` has the last word.
        A delimiter that is too long for that table is left out of it.
        """
        size = self._vocab_size if vocab_size is None else vocab_size
        texts = TokenTexts.of(self._tokenizer)
        key = (texts.state, frozenset(end_of_text), size)
        if key not in self._classes:  # a look at every token: once, not with each answer
            fits = len(self._delimiter) <= 2
            words = texts.alone(size) if fits else [""] * size
            if self._delimiter == DELIMITER:
                words = [_AROUND_BREAKS.sub("\n", word) for word in words]
            delimiter = self._delimiter if fits else DELIMITER
            self._classes = {key: token_classes(words, key[1], delimiter)}
        return self._classes[key]

    def _look(self, tail: str, text: str) -> tuple[bool, bool, str]:
        """What ``text`` does behind ``tail``: completes the delimiter, says something; new tail."""
        if not text:
            return False, False, tail
        said = any(letter.isalnum() for letter in text)
        seen = tail + text
        if self._delimiter == DELIMITER:
            ends = _LINE_END.search(seen) is not None
            return _BLANK_LINE.search(seen) is not None, said, "\n" if ends else ""
        keep = len(self._delimiter) - 1
        return self._delimiter in seen, said, seen[-keep:] if keep else ""


class StepScan:
    """One open step, read token by token in constant time."""

    def __init__(self, boundary: StepBoundary, texts: TokenTexts) -> None:
        self._texts = texts
        self._look = boundary.look
        self._left = boundary.max_tokens
        self._state = START
        self._tail = ""  # of the text, as much of it as the delimiter may have begun in
        self._said = False
        self._before_run = "", False

    @property
    def said(self) -> bool:
        """Whether the step's text holds a letter or a digit."""
        # A run of bytes has no letters while it ends within one; see Reading.
        return self._before_run[1] if self._state.run and self._state.pending else self._said

    def push(self, token: int) -> bool:
        """Take ``token``, and tell whether it closes the step."""
        before = self._state
        text, after = self._texts.push(before, token)
        self._state = after
        self._left -= 1
        if self._texts.in_runs:
            self._mind_run(before, after)
        completes, says, self._tail = self._look(self._tail, text)
        self._said |= says
        return self._left <= 0 or (completes and self._said)

    def _mind_run(self, before: Reading, after: Reading) -> None:
        """A run of byte tokens that turns out to be no UTF-8 has said nothing and ended nothing."""
        if after.run and not before.run:
            self._before_run = self._tail, self._said
        elif (after.broken and not before.broken) or (before.pending and not after.run):
            self._tail, self._said = self._before_run
