"""A pair whose models run under vLLM.

They are in two servers, or in two engines of this process. Only token ids travel. Tokenizers and
configs are read here, weights are not.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from ..core.shape import ModelShape
from ..core.token_text import TokenTexts
from ..core.transcript import WRITERS, Transcript, Writer
from ..engines.vllm.calls import Arrivals
from ..engines.vllm.connect import Inquiry
from ..engines.vllm.engine import VllmEngine
from ..engines.vllm.flags import GATES
from ..engines.vllm.local import LocalCarrier, stepping
from ..engines.vllm.servers import HttpCarrier, Link, Patience
from ..errors import ContextFullError, SteerError
from .loading import load_tokenizer
from .pair import TEMPLATES_DIFFER
from .two_models import TwoModels
from .vllm_side import VllmSide, check_tokens, described, sample, source, told
from .vocabulary import check_same_vocabulary

KEY = "VLLM_API_KEY"
RAW = "raw_logits"


@dataclass(frozen=True, eq=False)
class VllmPair(TwoModels):
    """Two models under vLLM, and their one tokenizer.

    :meth:`connect` makes one of two servers, :meth:`of` of two engines.

    Raises:
        SteerError: the tokenizers differ, or the small model is the larger of the two.
    """

    elsewhere: ClassVar[bool] = True

    sides: Mapping[Writer, VllmSide]
    tokenizer: PreTrainedTokenizerBase
    large_tokenizer: PreTrainedTokenizerBase | None
    arrivals: Arrivals
    link: Link | None = None
    _sessions: WeakKeyDictionary[Transcript, str] = field(default_factory=WeakKeyDictionary)

    def __post_init__(self) -> None:
        if self.large_tokenizer is not None:
            check_same_vocabulary(self.tokenizer, self.large_tokenizer)
        small, large = (self.sides[w] for w in WRITERS)
        if small.shape.parameters > large.shape.parameters:
            raise SteerError(
                f"{small.name} runs {small.model!r}, of {small.shape.parameters:,} parameters, and "
                f"{large.name} runs {large.model!r}, of {large.shape.parameters:,}: give the small "
                "model first, or exchange the two addresses"
            )
        if self.templates_differ:
            warnings.warn(TEMPLATES_DIFFER, stacklevel=4)

    @classmethod
    def connect(
        cls,
        small_url: str,
        large_url: str,
        *,
        small: str | None = None,
        large: str | None = None,
        tokenizer: str | Path | None = None,
        patience: Patience | None = None,
        key: str | None = None,
        **kwargs: Any,
    ) -> VllmPair:
        """Make a pair of the models of two servers.

        Servers are started with ``--logprobs-mode raw_logits``, and with
        ``--enable-prompt-tokens-details`` where costs are to be those that were paid.

        Args:
            small_url, large_url: addresses of the servers.
            small, large: folder or hub id of either model, whose config and tokenizer are read; by
                default what the server was started with.
            tokenizer: folder or hub id of the tokenizer of both; by default each model's own.
            patience: how long servers are waited for.
            key: that they ask for; by default ``VLLM_API_KEY`` of the environment.
            kwargs: of ``from_pretrained``, for configs and tokenizers.

        Raises:
            ServerError: a server cannot be reached, or answers with a fault.
            SteerError: it has another model or other tokens, gives no raw logits, wants a key, or
                what is to be read of its model is not here.
        """
        key = os.environ.get(KEY, "") if key is None else key
        link = Link(patience or Patience(), key)
        try:
            sides: dict[Writer, VllmSide] = {}
            tokenizers = []
            asked = ((WRITERS[0], small_url, small), (WRITERS[1], large_url, large))
            with link.asking() as client:
                served = {w: Inquiry(client, w, url).model(name) for w, url, name in asked}
                for writer, url, name in asked:
                    inquiry, found = Inquiry(client, writer, url), served[writer]
                    place = source(inquiry.name, writer, name, found)
                    own = load_tokenizer(writer, tokenizer or place, kwargs)
                    check_tokens(inquiry, found.model, own)
                    inquiry.check_logits(found, sample(own))
                    carrier = HttpCarrier(link, found.url, found.model, told(writer, found))
                    sides[writer] = described(
                        inquiry.name,
                        found.model,
                        writer,
                        place,
                        own,
                        carrier,
                        found.context,
                        inquiry.gated(found, sample(own)),
                        kwargs,
                    )
                    tokenizers.append(own)
            return cls(sides, tokenizers[0], tokenizers[1], Arrivals(), link)
        except BaseException:
            link.close()
            raise

    @classmethod
    def of(cls, small: Any, large: Any) -> VllmPair:
        """Make a pair of two engines in this process.

        It needs ``VLLM_ENABLE_V1_MULTIPROCESSING=0`` before vllm is imported.

        Args:
            small, large: two ``vllm.LLM``, with ``logprobs_mode="raw_logits"``.

        Raises:
            SteerError: one gives no raw logits, or runs in another process.
        """
        sides: dict[Writer, VllmSide] = {}
        carriers, tokenizers = [], []
        for writer, llm in zip(WRITERS, (small, large), strict=True):
            engine, config = llm.llm_engine, llm.llm_engine.model_config
            name = f"the {writer} model {config.model!r}"
            if str(config.logprobs_mode) != RAW:
                raise SteerError(
                    f"{name} gives {config.logprobs_mode} in place of raw logits: make it with "
                    f"LLM(..., logprobs_mode={RAW!r})"
                )
            if getattr(engine, "model_executor", None) is None:
                raise SteerError(
                    f"{name} runs in another process: set VLLM_ENABLE_V1_MULTIPROCESSING=0 before "
                    "vllm is imported"
                )
            carriers.append(LocalCarrier(engine, name))
            tokenizers.append(load_tokenizer(writer, config.tokenizer, {}))
            sides[writer] = described(
                name,
                config.model,
                writer,
                config.model,
                tokenizers[-1],
                carriers[-1],
                config.max_model_len,
                any(gate in GATES.values() for gate in config.logits_processors or ()),
                {},
            )
        return cls(sides, tokenizers[0], tokenizers[1], Arrivals(stepping(carriers)))

    def engines(self) -> dict[Writer, VllmEngine]:
        """An engine for each model, without rows."""
        return {
            writer: VllmEngine(
                writer,
                side.carrier,
                self.arrivals,
                side.shape,
                self.vocab_size,
                self._session,
                side.handoff,
            )
            for writer, side in self.sides.items()
        }

    @property
    def gated(self) -> bool:
        return self.sides["small"].handoff is not None

    def _session(self, transcript: Transcript) -> str:
        """The name of a conversation, by which a router of requests can keep it at one replica."""
        return self._sessions.setdefault(transcript, f"steer-{uuid.uuid4().hex}")

    def close(self) -> None:
        """Give up what is on its way, and the connections."""
        if self.link is not None:
            self.link.close()

    @property
    def shapes(self) -> dict[Writer, ModelShape]:
        return {writer: side.shape for writer, side in self.sides.items()}

    @property
    def fingerprint(self) -> None:
        """None: the weights are elsewhere."""

    @property
    def vocab_size(self) -> int:
        rows = [side.rows for side in self.sides.values()]
        return min(*rows, TokenTexts.of(self.tokenizer).size)

    @property
    def max_length(self) -> int:
        return min(side.context for side in self.sides.values())

    @property
    def eos_ids(self) -> frozenset[int]:
        return frozenset().union(*(side.ends for side in self.sides.values()))

    def checked(self, ids: list[int]) -> list[int]:
        try:
            return super().checked(ids)
        except ContextFullError as error:
            short = min(self.sides.values(), key=lambda side: side.context)
            raise ContextFullError(
                f"{error}, or give {short.name} a larger --max-model-len than {short.context}"
            ) from error
