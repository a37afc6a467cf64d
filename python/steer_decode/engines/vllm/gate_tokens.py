"""What the tokens of a server are to steps."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ...core.boundary import DELIMITER, StepBoundary, StepScan
from ...core.token_text import TokenTexts
from ...errors import SteerError

_BOUNDARIES = 64  # kept at a time, of different delimiters and lengths


class Deeds(NamedTuple):
    """What tokens do to a step.

    It depends on whether the text before them ends in a line break.

    Fields, booleans each:
        says: they hold a letter or a digit.
        closes, closes_after: they close a step that says something; behind a line break.
        breaks, breaks_after: the text then ends in a line break; likewise.
    """

    says: Tensor
    closes: Tensor
    breaks: Tensor
    closes_after: Tensor
    breaks_after: Tensor


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
            [size, 5] bool, fields of :class:`Deeds`.
        """
        look = StepBoundary(self._tokenizer, size).look
        rows = []
        for text in self._texts.alone(size):
            closes, says, tail = look("", text)
            closes_after, _, tail_after = look("\n", text)
            rows.append((says, closes, tail == "\n", closes_after, tail_after == "\n"))
        return torch.tensor(rows)

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
