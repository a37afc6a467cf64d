"""A small and a large model that share a vocabulary.

It is checked before anything is written.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..core.shape import ModelShape
from ..core.token_text import TokenTexts
from ..core.transcript import WRITERS, Writer
from ..engines.hf.cache_support import check_cache_support
from ..engines.hf.memory import check_memory
from ..engines.hf.placing import placed
from ..engines.hf.probe import probe
from ..engines.hf.rope import boundaries, context_length
from ..engines.hf.serving import Serving
from ..errors import SteerError
from .loading import chosen_dtype, load_model, load_tokenizer
from .two_models import TwoModels
from .vocabulary import check_same_vocabulary, eos_of

Device = torch.device | str
TEMPLATES_DIFFER = (
    "the chat templates of the two models differ: the small model's is used; "
    "Pair.from_pretrained(..., chat_template=TEXT) sets another for both"
)


@dataclass(frozen=True, eq=False)
class Pair(TwoModels):
    """Two causal language models and their one tokenizer.

    Raises:
        SteerError: the tokenizers differ, a model's cache cannot be rolled back, or it is in
            float64 or not in memory, or it cannot be served exactly (see ``probe.py``).
    """

    small: PreTrainedModel
    large: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    large_tokenizer: PreTrainedTokenizerBase | None = None

    def __post_init__(self) -> None:
        if self.large_tokenizer is not None:
            check_same_vocabulary(self.tokenizer, self.large_tokenizer)
        for name in WRITERS:
            if not hasattr(self.model(name), "config"):
                raise SteerError(
                    f"the {name} model must be a model of transformers, got {self.model(name)!r}: "
                    "Pair.from_pretrained loads two by hub id or folder"
                )
            check_cache_support(self.model(name), name)
            if any(weight.is_meta for weight in self.model(name).parameters()):
                raise SteerError(
                    f"the {name} model has weights that are not in memory (device meta): load all "
                    "of it, without offloading"
                )
            if self.model(name).dtype == torch.float64:
                raise SteerError(
                    f"the {name} model is in float64: load it in float32, bfloat16 or float16"
                )
            self.model(name).eval()
        _ = self.serving
        _ = self.eos_ids  # which refuses what is no token id
        if self.templates_differ:
            warnings.warn(TEMPLATES_DIFFER, stacklevel=3)

    @classmethod
    def from_pretrained(
        cls,
        small: str | Path,
        large: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device: Device | tuple[Device, Device] | None = None,
        **kwargs: Any,
    ) -> Pair:
        """Load both models by hub id or path.

        Args:
            small, large: anything that ``AutoModelForCausalLM.from_pretrained`` takes, or
                ``AutoModelForImageTextToText`` for texts.
            dtype: of both models; by default the checkpoint's on a GPU and float32 on a CPU.
            torch_dtype: the older name of ``dtype``.
            device: of both models, or of the small and the large one; by default the GPU where
                there is one. Models that ``device_map`` spreads, and quantized ones, stay where
                they were loaded.
            kwargs: handed on to ``from_pretrained``: what only tokenizers take (``use_fast``,
                ``padding_side``, ``chat_template``, ...) to both tokenizers, where files are and
                how they are fetched (``revision``, ``token``, ...) to all four, the rest to both
                models. One that they do not know is refused.

        Raises:
            SteerError: an id or path that cannot be loaded, a device that is not there, weights
                that do not fit their configuration, or tokenizers that differ.
            OutOfMemoryError: a model does not fit in memory.
        """
        mapped = kwargs.get("device_map") is not None
        if device is not None and mapped:
            raise SteerError(
                f"device={device!r} and device_map={kwargs['device_map']!r} both say where the "
                "models go: give one of them"
            )
        chosen = chosen_dtype(dtype, torch_dtype)
        places = [placement(one, chosen) for one in _each(device)]
        tokenizers = [load_tokenizer("small", small, kwargs)]
        tokenizers.append(load_tokenizer("large", large, kwargs))
        check_same_vocabulary(*tokenizers)
        models = [
            placed(load_model(name, source, dtype, kwargs), None if mapped else place)
            for name, source, (place, dtype) in zip(WRITERS, (small, large), places, strict=True)
        ]
        return cls(models[0], models[1], tokenizers[0], tokenizers[1])

    def model(self, writer: Writer) -> PreTrainedModel:
        return self.small if writer == "small" else self.large

    def check_served(self) -> None:
        _ = self.serving

    def check_room(self, tokens: int, rows: int, held: Mapping[Writer, int] | None = None) -> None:
        devices = {w: self.model(w).device for w in WRITERS}
        check_memory(self.shapes, devices, tokens, rows, held)

    @property
    def ahead(self) -> dict[Writer, int]:
        return {w: 8 if self.model(w).device.type == "cuda" else 1 for w in WRITERS}

    @cached_property
    def shapes(self) -> dict[Writer, ModelShape]:
        return {name: ModelShape.of(self.model(name)) for name in WRITERS}

    @property
    def serving(self) -> dict[Writer, Serving]:
        """How each model is served, as its probe has found.

        A model is tried when its first pair is made, and again where it has changed since.

        Raises:
            SteerError: a model cannot be served exactly; the message says why.
        """
        found: dict[Writer, Serving] = {}
        for name in WRITERS:
            model = self.model(name)
            result = probe(model)
            if result.problems:
                raise SteerError(
                    f"the {name} model {model.config.name_or_path or type(model).__name__!r} "
                    f"{'; it '.join(result.problems)}: use another model"
                )
            found[name] = result.serving
        return found

    @property
    def vocab_size(self) -> int:
        """How many ids both models and the tokenizer know.

        Padding rows of the heads lie beyond. As now: a token that is added later, to a row that was
        padding, is one of them.
        """
        rows = [self.model(n).get_input_embeddings().weight.shape[0] for n in WRITERS]
        return min(*rows, TokenTexts.of(self.tokenizer).size)

    @cached_property
    def max_length(self) -> int:
        """Longest transcript, prompt included, that both models have positions for."""
        limits = [2**31]
        for name in WRITERS:
            config = self.model(name).config.get_text_config(decoder=True)
            limits.append(context_length(config) or 2**31)
            if boundaries(config) and (limit := self.serving[name].limit) is not None:
                limits.append(limit)
        return min(limits)

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end an answer, as now.

        Those of both generation configs and of the tokenizer.

        Raises:
            SteerError: one of them is no token id.
        """
        ids: set[int] = set()
        for name, source in (
            ("the small model's generation config", self.small.generation_config),
            ("the large model's generation config", self.large.generation_config),
            ("the tokenizer", self.tokenizer),
        ):
            ids.update(eos_of(name, source))
        return frozenset(ids)

    @cached_property
    def fingerprint(self) -> str:
        """A name of this pair for calibrations.

        It is made of architecture, sizes and a sample of the weights. Paths and dtypes do not enter
        it: scores of the same weights in bf16 are the same scores.
        """
        digest = hashlib.sha256()
        for name in WRITERS:
            model = self.model(name)
            sizes = {"type": model.config.model_type, "parameters": self.shapes[name].parameters}
            digest.update(json.dumps(sizes, sort_keys=True).encode())
            for weight in model.parameters():
                sample = weight.detach().flatten()[:: max(1, weight.numel() // 16)][:16]
                digest.update(sample.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
        return digest.hexdigest()[:16]


def loaded(pair: TwoModels) -> Pair:
    """``pair``, where its models are in this process.

    Raises:
        SteerError: they are elsewhere.
    """
    if not isinstance(pair, Pair):
        raise SteerError(
            "the models of this pair run elsewhere, and this runs them here: load them, as in "
            "Pair.from_pretrained(small, large)"
        )
    return pair


def _each(device: Any) -> tuple[Any, Any]:
    """The device of either model.

    Raises:
        SteerError: there are as many as no pair has models.
    """
    if not isinstance(device, tuple | list):
        return device, device
    if len(device) != 2:
        raise SteerError(
            f"device must be one for both models, or two, the small model's first: got {device!r}"
        )
    return device[0], device[1]


def placement(device: Any, dtype: Any) -> tuple[torch.device, Any]:
    """Where models are loaded, and in which dtype.

    For what is None, the default.

    Raises:
        SteerError: tensors cannot be made on ``device``.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    _check_device(device)
    place = torch.device(device)
    if dtype is None:
        dtype = "auto" if place.type == "cuda" else torch.float32
    return place, dtype


def _check_device(device: Any) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise SteerError(f"device {device!r} cannot be used ({reason}): try cpu or cuda") from error
