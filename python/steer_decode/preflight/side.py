"""What the files of one model say, without its weights.

Config, tokenizer, sizes by arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..core.shape import ModelShape
from ..core.transcript import Writer
from ..core.weights import AS_HELD, count_parameters, read_weights
from ..engines.hf.cache_support import NO_ROLL_BACK, foreign_state, keeps_no_cache
from ..engines.hf.rope import context_length
from ..models.described import dtype_of, eos_ids, on_meta
from ..models.loading import load_config, load_tokenizer
from .quantized import Quantization, Reckoned

MOST_LAYERS = 10_000  # of a config that is not believed; to make so many takes minutes


@dataclass(frozen=True)
class Side:
    """One model of a pair, as its files describe it.

    Attributes:
        writer: which of the two it is to be.
        source: folder or hub id.
        name: what it is shown as.
        family: ``model_type`` of its config.
        tokenizer: of its folder.
        dtype: in which it is to compute.
        parameters: all that it has; None where no causal language model can be made of it.
        shape: its sizes; None where it is refused.
        eos_ids: ids that end its answers.
        context: longest text that it has positions for; None where nothing says.
        quantization: how its weights are packed, if they are.
        problems: why it cannot be served; sentences without a subject.
        notes: what else a user should know; sentences without a subject.
    """

    writer: Writer
    source: str
    name: str
    family: str
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype
    parameters: int | None
    shape: ModelShape | None
    eos_ids: frozenset[int]
    context: int | None
    quantization: Quantization | None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def read_side(
    writer: Writer,
    source: str,
    dtype: torch.dtype | str,
    *,
    name: str | None = None,
    **options: Any,
) -> Side:
    """Read config and tokenizer of a model.

    It is made on the meta device for its sizes.

    Args:
        writer: which of the two models it is to be.
        source: folder or hub id.
        dtype: of its weights; "auto" is what its config says.
        name: what it is shown as; by default the source.
        options: of ``from_pretrained``.

    Raises:
        SteerError: there is no config or no tokenizer, or it cannot be read.
    """
    config = load_config(writer, source, options)
    tokenizer = load_tokenizer(writer, source, options)
    chosen = dtype_of(config) if dtype == "auto" else dtype
    assert isinstance(chosen, torch.dtype)
    quantization = Quantization.of(config)
    problems, notes = [], []
    model = shape = parameters = None
    if getattr(config, "is_encoder_decoder", False):
        problems.append("is an encoder and a decoder: it answers a text, it does not go on with it")
    elif (layers := _layers(config)) > MOST_LAYERS:
        problems.append(f"is to have {layers:,} layers, more than any model that can be made")
    else:
        try:
            model = on_meta(config, chosen)
        except Exception as error:  # a family without a causal model, sizes that clash
            problems.append(f"cannot be made as a causal language model ({_first_line(error)})")
    if model is not None:
        parameters = count_parameters(model)
        problems += _refusals(model)
    if model is not None and not problems:
        packing = AS_HELD if quantization is None else Reckoned(model, quantization)
        shape = ModelShape.of(model, read_weights(model, packing))
        parameters = shape.parameters
    if quantization is not None and quantization.bits is None:
        notes.append(
            f"is quantized by {quantization.method} in a way that is not reckoned here: bytes are "
            f"those of {str(chosen).removeprefix('torch.')}"
        )
    return Side(
        writer=writer,
        source=source,
        name=name or source,
        family=str(getattr(config, "model_type", "") or type(config).__name__),
        tokenizer=tokenizer,
        dtype=chosen,
        parameters=parameters,
        shape=shape,
        eos_ids=eos_ids(writer, config, tokenizer, source, options),
        context=context_length(config.get_text_config(decoder=True)),
        quantization=quantization,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _layers(config: Any) -> int:
    found = getattr(config.get_text_config(decoder=True), "num_hidden_layers", 0)
    return found if isinstance(found, int) else 0


def _refusals(model: PreTrainedModel) -> list[str]:
    """Why a model cannot be served, as far as that can be told without running it."""
    if what := foreign_state(model):
        return [f"keeps {what}, {NO_ROLL_BACK}"]
    if keeps_no_cache(model):
        return ["keeps no KV cache, so that a token written sees none of those before it"]
    # Attention says so of itself; of older transformers' encoders, that it is in no decoder.
    facts = [vars(module) for module in model.get_decoder().modules()]
    causal = [fact.get(name) for fact in facts for name in ("is_causal", "is_decoder")]
    if False in causal and True not in causal:
        return ["reads a text in both directions: it is no causal language model"]
    return []


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
