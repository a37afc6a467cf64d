"""What the tokens of a server are to steps."""

from __future__ import annotations

import enum
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ...core.boundary import DELIMITER, StepBoundary, StepScan
from ...core.token_text import TokenTexts
from ...errors import SteerError

_BOUNDARIES = 64  # kept at a time, of different delimiters and lengths


class TokenBits(enum.IntFlag):
    """What a token does to a step.

    It depends on whether the text before it ends in a line break.
    """

    SAYS_SOMETHING = 1
    CLOSES = 2
    ENDS_IN_BREAK = 4
    CLOSES_AFTER_BREAK = 8
    ENDS_IN_BREAK_AFTER_BREAK = 16


class GateTokens:
    """A tokenizer, and where steps of its tokens close.

    Attributes:
        size: one more than the largest id of a token; columns of logits beyond are padding.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._texts = TokenTexts.of(tokenizer)
        self.size = self._texts.size
        self._boundary = lru_cache(_BOUNDARIES)(self._make)

    @classmethod
    def of(cls, model_config: Any) -> GateTokens:
        """The tokenizer of a vLLM server, from its ``ModelConfig``.

        Raises:
            SteerError: it cannot be loaded as transformers do.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                model_config.tokenizer,
                revision=model_config.tokenizer_revision,
                trust_remote_code=model_config.trust_remote_code,
            )
        except Exception as error:  # whatever a tokenizer's files and code raise
            raise SteerError(
                f"the gate cannot read the tokenizer {model_config.tokenizer!r}: {error}"
            ) from error
        return cls(tokenizer)

    def scan(self, delimiter: str, max_step: int) -> StepScan:
        """Start a step."""
        return self._boundary(delimiter, max_step).scan(texts=self._texts)

    def table(self, size: int) -> Tensor:
        """What each id below ``size`` does to a step.

        A blank line closes it.
        It says what :class:`StepScan` says, but for letters that are split over tokens: a token
        that ends within a character brings none here.

        Returns:
            [size] uint8, bits of :class:`TokenBits`.
        """
        look = StepBoundary(self._tokenizer, size).look
        rows = []
        for text in self._texts.alone(size):
            closes, said, tail = look("", text)
            closes_after, _, tail_after = look("\n", text)
            rows.append(
                TokenBits.SAYS_SOMETHING * said
                | TokenBits.CLOSES * closes
                | TokenBits.ENDS_IN_BREAK * (tail == "\n")
                | TokenBits.CLOSES_AFTER_BREAK * closes_after
                | TokenBits.ENDS_IN_BREAK_AFTER_BREAK * (tail_after == "\n")
            )
        return torch.tensor(rows, dtype=torch.uint8)

    def _make(self, delimiter: str, max_step: int) -> StepBoundary:
        return StepBoundary(self._tokenizer, self.size, delimiter, max_step)


def check_delimiter(delimiter: str) -> None:
    """Refuse another delimiter than the table's.

    Raises:
        SteerError: steps do not end with a blank line, which is all that :meth:`table` knows.
    """
    if delimiter != DELIMITER:
        raise SteerError(
            f"steer_delimiter must be {DELIMITER!r} with vLLM's model runner V2, got "
            f"{delimiter!r}: serve with VLLM_USE_V2_MODEL_RUNNER=0 and the gate for V1"
        )
