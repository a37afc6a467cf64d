"""Reading and checks of what ``generate`` of transformers hands over.

All of it is checked before any model runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteriaList
from transformers.generation import EosTokenCriteria

from ...engines.hf.wrapped import unwrapped
from ...errors import SteerError
from ...models.pair import Pair
from ..routing import Routing

# What ``generate`` prepares for a loop of its own; the caches of a router are the router's.
_PREPARED = {
    "attention_mask",
    "position_ids",
    "cache_position",
    "cache",
    "past_key_values",
    "use_cache",
    "logits_to_keep",
}


def check_model(pair: Pair, model: PreTrainedModel) -> None:
    """Refuse any model but the small one of ``pair``.

    Where it is wrapped (PEFT, torch.compile), the one inside is what comes here.
    """
    if unwrapped(model) is unwrapped(pair.small):
        return
    if unwrapped(model) is unwrapped(pair.large):
        raise SteerError(
            "custom_generate was given a router by its large model: "
            "call generate of router.pair.small, the large one is in the router"
        )
    name = getattr(model.config, "name_or_path", "") or type(model).__name__
    raise SteerError(
        f"custom_generate was given a router by a model that is not in it, {name!r}: "
        "call generate of router.pair.small, the very object"
    )


def check_config(model: PreTrainedModel, config: GenerationConfig) -> None:
    """Refuse what would otherwise be ignored."""
    mode = str(getattr(config.get_generation_mode(), "value", config.get_generation_mode()))
    if mode not in ("greedy_search", "sample"):
        raise SteerError(
            f"routed decoding is greedy or samples, but these options ask for {mode}: leave out "
            "num_beams, penalty_alpha, prompt_lookup_num_tokens and their like"
        )
    if config.do_sample and config.temperature == float("inf"):
        raise SteerError("temperature must be a finite number, got inf: give a large one")
    for name in ("output_attentions", "output_hidden_states"):
        if getattr(config, name, None):
            raise SteerError(
                f"{name}=True is not supported: two models write one answer, and their layers "
                "differ; leave it out"
            )
    cache = config.cache_implementation
    if cache is not None and cache != model.generation_config.cache_implementation:
        raise SteerError(
            f"cache_implementation={cache!r} is not supported: "
            "a router keeps caches of its own; leave it out"
        )


def prompt_rows(pair: Pair, input_ids: Tensor, model_kwargs: dict[str, Any]) -> list[list[int]]:
    """The prompts [B, L] without their pads.

    No other input may stand beside them.

    Raises:
        SteerError: something of ``model_kwargs`` that cannot be honoured, a prompt that is not in
            one piece, or one that :meth:`Pair.checked` refuses; the message names the row.
    """
    for name, value in model_kwargs.items():
        if name not in _PREPARED and not _says_nothing(name, value):
            if (
                name == "mm_encoder_outputs"
            ):  # what transformers has made of pixel_values and its kin
                name = f"{', '.join(value)} input"
            raise SteerError(f"{name} is not supported in routed decoding: give input_ids only")
    for name in ("cache", "past_key_values"):
        cache = model_kwargs.get(name)
        if cache is None:
            continue
        # An empty cache is what ``generate`` itself prepares; transformers 5 marks the caller's.
        if getattr(cache, "_is_user_defined", False) or int(cache.get_seq_length()):
            raise SteerError(
                f"{name} is not supported: a router keeps caches of its own; for turn after turn "
                "of one conversation use steer_decode.decode.session.Session"
            )
    mask, positions = model_kwargs.get("attention_mask"), model_kwargs.get("position_ids")
    seens = (torch.ones_like(input_ids) if mask is None else mask).bool().tolist()
    rows = []
    for row, (ids, seen) in enumerate(zip(input_ids.tolist(), seens, strict=True)):
        start = seen.index(True) if True in seen else len(ids)
        if not all(seen[start:]):
            what = "pads on the right" if not seen[-1] else "a hole"
            raise SteerError(
                f"attention_mask of row {row} has {what}: a prompt must be one piece with its pads "
                "on the left (padding_side='left')"
            )
        if positions is not None:
            planes = positions[..., min(row, positions.shape[-2] - 1), start:]
            if not bool((planes == torch.arange(len(ids) - start, device=planes.device)).all()):
                raise SteerError(
                    f"position_ids of row {row} do not count from 0: leave position_ids out"
                )
        try:
            rows.append(pair.checked(ids[start:]))
        except SteerError as error:
            raise SteerError(f"row {row}: {error}") from error
    return rows


def _says_nothing(name: str, value: Any) -> bool:
    """Whether an input beside the text is none: ``generate`` adds empty ones for image models."""
    if isinstance(value, Mapping):
        return all(_says_nothing(name, each) for each in value.values())
    if isinstance(value, list | tuple):
        return not value
    if isinstance(value, Tensor) and name.endswith("token_type_ids"):  # 0 is text
        return not bool(value.any())
    return value is None


def call_eos_ids(pair: Pair, criteria: StoppingCriteriaList) -> frozenset[int]:
    """Ids that end an answer in this call.

    The call's, or the pair's where the call says nothing new. ``generate`` knows the small model's
    alone; the large one may end an answer with its own.
    """
    ids = {
        int(i) for c in criteria if isinstance(c, EosTokenCriteria) for i in c.eos_token_id.view(-1)
    }
    usual = pair.small.generation_config.eos_token_id
    usual = {usual} if isinstance(usual, int) else set(usual or ())
    return pair.eos_ids if ids == usual else frozenset(ids)


def pad_id(routing: Routing, config: GenerationConfig, rows: int) -> int:
    """What fills up the shorter ones of ``rows`` answers."""
    for pad in (
        config.pad_token_id,
        getattr(config, "_pad_token_tensor", None),
        routing.pair.tokenizer.pad_token_id,
        min(routing.ends, default=None),
    ):
        if pad is not None:
            return int(pad)
    if rows > 1:
        raise SteerError(
            f"pad_token_id is not set, and {rows} answers may differ in length: "
            "give generate a pad_token_id"
        )
    return 0
