"""A small and a large model that share a vocabulary, checked before anything is written."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .cache_support import check_cache_support
from .cost import ModelShape
from .errors import ContextFullError, SteerError
from .model_code import check_no_code
from .rope import boundaries, context_length
from .serving import Serving
from .steps import StepBoundary
from .transcript import WRITERS, Writer


@dataclass(frozen=True, eq=False)
class Pair:
    """Two causal language models and the one tokenizer that serves both.

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

    @classmethod
    def from_pretrained(
        cls,
        small: str | Path,
        large: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        **kwargs: Any,
    ) -> Pair:
        """Loads both models by hub id or path.

        Args:
            small, large: anything that ``AutoModelForCausalLM.from_pretrained`` takes.
            dtype: of both models; by default the checkpoint's on a GPU and float32 on a CPU.
            device: of both models; by default the GPU where there is one.
            kwargs: handed on to ``from_pretrained`` of models and tokenizers.

        Raises:
            SteerError: an id or path that cannot be loaded, a device that is not there, or
                tokenizers that differ.
        """
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        _check_device(device)
        if dtype is None:
            dtype = "auto" if torch.device(device).type == "cuda" else torch.float32
        tokenizers = [_load(AutoTokenizer, "small", small, **kwargs)]
        tokenizers.append(_load(AutoTokenizer, "large", large, **kwargs))
        check_same_vocabulary(*tokenizers)
        models = [
            _load(AutoModelForCausalLM, name, source, dtype=dtype, **kwargs).to(device)
            for name, source in (("small", small), ("large", large))
        ]
        return cls(models[0], models[1], tokenizers[0], tokenizers[1])

    def model(self, writer: Writer) -> PreTrainedModel:
        return self.small if writer == "small" else self.large

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
        from .probe import probe  # which imports the loop

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

    @cached_property
    def vocab_size(self) -> int:
        """Ids that both models and the tokenizer know; padding rows of the heads lie beyond."""
        rows = [self.model(n).get_input_embeddings().weight.shape[0] for n in WRITERS]
        return min(*rows, max(self.tokenizer.get_vocab().values()) + 1)

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

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end an answer: those of both generation configs and of the tokenizer."""
        ids: set[int] = set()
        for source in (self.small.generation_config, self.large.generation_config, self.tokenizer):
            eos = getattr(source, "eos_token_id", None)
            ids.update([eos] if isinstance(eos, int) else eos or [])
        return frozenset(ids)

    def ending_at(self, eos_ids: Iterable[int]) -> Pair:
        """The same pair, whose answers end at ``eos_ids`` and nowhere else."""
        _ = self.shapes  # what takes long to find out is found out once, for all copies
        pair = copy.copy(self)
        pair.__dict__["eos_ids"] = frozenset(eos_ids)
        return pair

    @cached_property
    def boundary(self) -> StepBoundary:
        return StepBoundary(self.tokenizer, self.vocab_size)

    @cached_property
    def fingerprint(self) -> str:
        """Names this pair in a calibration: architecture, sizes and a sample of the weights.

        Paths and dtypes do not enter it: scores of the same weights in bf16 are the same scores.
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

    def encode(self, prompt: str | Sequence[dict[str, str]], chat: bool | None = None) -> list[int]:
        """Prompt ids of a text or of chat messages.

        Args:
            prompt: a text, or messages ``[{"role": ..., "content": ...}, ...]``.
            chat: put a text through the chat template as one user message; by default where
                the tokenizer has a template.

        Raises:
            SteerError: the prompt is empty, too long, no Unicode text, or needs a template that is
                missing.
        """
        template = getattr(self.tokenizer, "chat_template", None)
        if isinstance(prompt, str):
            if not prompt.strip():
                raise SteerError("prompt is empty: give the question that is to be answered")
            if chat is None:
                chat = template is not None
            if not chat:
                _check_characters(prompt)
                return self.checked(list(self.tokenizer(prompt)["input_ids"]))
            prompt = [{"role": "user", "content": prompt}]
        return self.checked(self.tokenize(self.render(prompt)))

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The text of chat messages, up to where the answer begins.

        Raises:
            SteerError: there is no message, or the tokenizer has no chat template.
        """
        if not messages:
            raise SteerError("messages are empty: give at least one message")
        said: Any = messages
        if not isinstance(said, Sequence) or not all(isinstance(m, Mapping) for m in said):
            raise SteerError(
                'messages must be a list of {"role": ..., "content": ...}, got '
                f"{str(messages)[:60]!r}"
            )
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise SteerError("the tokenizer has no chat template: give the prompt as a text")
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), add_generation_prompt=True, tokenize=False
                )
            )
        except Exception as error:  # whatever a template raises, or jinja on its behalf
            raise SteerError(
                f"the chat template cannot read these messages: {type(error).__name__}: "
                f"{str(error).strip().partition(chr(10))[0]}"
            ) from error

    def tokenize(self, text: str) -> list[int]:
        """Ids of a rendered text, whose special tokens are written out.

        Raises:
            SteerError: half of a surrogate pair in it.
        """
        _check_characters(text)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def checked(self, ids: list[int]) -> list[int]:
        """``ids`` as a prompt.

        Raises:
            SteerError: there are none, too many, or one that the models do not know.
        """
        if not ids:
            raise SteerError("prompt has no tokens: give the question that is to be answered")
        if len(ids) >= self.max_length:
            raise ContextFullError(
                f"prompt is {len(ids)} tokens long, but the context of this pair holds "
                f"{self.max_length}, answer included: shorten the prompt"
            )
        foreign = [i for i in ids if not 0 <= i < self.vocab_size]
        if foreign:
            raise SteerError(
                f"prompt holds token id {foreign[0]}, but the models know ids below "
                f"{self.vocab_size} only: remove that special token from the prompt"
            )
        return ids


def _check_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SteerError(
            f"prompt holds {text[error.start]!r}, which is no character but half of one, or a byte "
            "that was not UTF-8: give the question as UTF-8 text"
        ) from error


def check_same_vocabulary(small: PreTrainedTokenizerBase, large: PreTrainedTokenizerBase) -> None:
    """Compares two tokenizers by content, id by id.

    Raises:
        SteerError: they differ; the message names the first id that does.
    """
    ours = {i: token for token, i in small.get_vocab().items()}
    theirs = {i: token for token, i in large.get_vocab().items()}
    if ours == theirs:
        return
    first = min(i for i in ours.keys() | theirs.keys() if ours.get(i) != theirs.get(i))
    words = [repr(ids[first]) if first in ids else "nothing" for ids in (ours, theirs)]
    raise SteerError(
        f"the tokenizers differ: id {first} is {words[0]} in the small model's ({len(ours)} tokens)"
        f" and {words[1]} in the large model's ({len(theirs)} tokens); token ids travel between "
        "the models, so choose two models of one family"
    )


def _check_device(device: Any) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise SteerError(f"device {device!r} cannot be used ({reason}): try cpu or cuda") from error


def _load(auto: Any, name: str, source: str | Path, **kwargs: Any) -> Any:
    if not isinstance(source, str | PathLike):
        raise SteerError(f"the {name} model must be a folder or a hub id, got {source!r}")
    # A hub id is NAME or OWNER/NAME; anything else that is no folder is a path that leads nowhere.
    if not Path(source).exists() and not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", str(source)):
        raise SteerError(f"cannot load the {name} model {str(source)!r}: there is no such folder")
    check_no_code(name, str(source), kwargs)
    # Said, or transformers would ask at a terminal, and wait.
    kwargs.setdefault("trust_remote_code", False)
    try:
        return auto.from_pretrained(str(source), **kwargs)
    except (OSError, ValueError, KeyError, ImportError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise SteerError(
            f"cannot load the {name} model {str(source)!r}: {reason} "
            "(give a folder with a model in it, or a hub id that can be reached)"
        ) from error
