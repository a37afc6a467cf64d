"""A pair whose models run in another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from ..core.shape import ModelShape
from ..core.transcript import Writer
from .two_models import TwoModels


class Facts(NamedTuple):
    """What is known of the models; see :class:`TwoModels`."""

    shapes: Mapping[Writer, ModelShape]
    fingerprint: str | None
    vocab_size: int
    max_length: int
    eos_ids: frozenset[int]


@dataclass(frozen=True, eq=False)
class DistantPair(TwoModels):
    """A pair, in a process without its weights.

    Prompts are read and routers are checked here.
    """

    tokenizer: PreTrainedTokenizerBase
    large_tokenizer: PreTrainedTokenizerBase | None
    facts: Facts

    @classmethod
    def of(cls, pair: TwoModels) -> DistantPair:
        """What is known of ``pair``; it can be pickled."""
        facts = Facts(
            dict(pair.shapes), pair.fingerprint, pair.vocab_size, pair.max_length, pair.eos_ids
        )
        return cls(pair.tokenizer, pair.large_tokenizer, facts)

    @property
    def shapes(self) -> Mapping[Writer, ModelShape]:
        return self.facts.shapes

    @property
    def fingerprint(self) -> str | None:
        return self.facts.fingerprint

    @property
    def vocab_size(self) -> int:
        return self.facts.vocab_size

    @property
    def max_length(self) -> int:
        return self.facts.max_length

    @property
    def eos_ids(self) -> frozenset[int]:
        return self.facts.eos_ids
