"""Two models of one vocabulary, wherever they run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

from transformers import PreTrainedTokenizerBase

from ..core.boundary import StepBoundary
from ..core.shape import ModelShape
from ..core.transcript import WRITERS, Writer
from ..engines.base import Engine
from .prompt import PromptEncoder


class TwoModels(PromptEncoder):
    """What routing has to know of two models.

    Attributes:
        tokenizer: the small model's, which is used.
        large_tokenizer: the large model's, where it has one of its own.
        elsewhere: the models are not loaded here, but run in engines of their own.
    """

    elsewhere: ClassVar[bool] = False

    @property
    def gated(self) -> bool:
        """Whether the gate is in the small model's engine."""
        return False

    tokenizer: PreTrainedTokenizerBase
    large_tokenizer: PreTrainedTokenizerBase | None

    @property
    def shapes(self) -> Mapping[Writer, ModelShape]:
        """The sizes of both models."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str | None:
        """A name of both models' weights.

        None where they cannot be seen.
        """
        raise NotImplementedError

    def check_served(self) -> None:
        """Refuse a model that cannot be served exactly.

        Raises:
            SteerError: it cannot be; the message says why.
        """

    def check_room(self, tokens: int, rows: int, held: Mapping[Writer, int] | None = None) -> None:
        """Refuse texts that the memory of this process cannot hold.

        Args:
            tokens, rows: of so many tokens each, there are so many.
            held: bytes that each model's cache has already.

        Raises:
            OutOfMemoryError: it cannot; a server that runs a model sees to its own.
        """

    def engines(self) -> Mapping[Writer, Engine] | None:
        """An engine for each model, without rows.

        None where engines are made of models that are here.
        """
        return None

    def close(self) -> None:
        """Give up calls that are on their way, and connections."""

    @property
    def ahead(self) -> Mapping[Writer, int]:
        """Tokens between two looks of the host, by default.

        For each model.
        """
        return dict.fromkeys(WRITERS, 1)

    @property
    def templates_differ(self) -> bool:
        """Whether both models have chat templates, and these differ.

        The small model's is then used.
        """
        templates = [getattr(t, "chat_template", None) for t in self._tokenizers]
        return None not in templates and any(t != templates[0] for t in templates)

    @property
    def _tokenizers(self) -> list[PreTrainedTokenizerBase]:
        return [t for t in (self.tokenizer, self.large_tokenizer) if t is not None]

    @property
    def template_owner(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer whose chat template is used.

        The small model's, or that of whichever has one.
        """
        owners = (t for t in self._tokenizers if getattr(t, "chat_template", None) is not None)
        return next(owners, None)

    @cached_property
    def boundary(self) -> StepBoundary:
        """Where a step closes by default."""
        return StepBoundary(self.tokenizer, self.vocab_size)
