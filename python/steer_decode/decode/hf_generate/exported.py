"""What a ``custom_generate`` folder calls.

Transformers runs ``custom_generate/generate.py`` of a folder in place of its loop, before it has
prepared anything. The function here makes a router of what it is given and calls ``generate``
again, with the router.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ...errors import SteerError
from ...models.pair import Pair
from ...policies import parse_policy
from ..router import Router

ROUTER = "speculative:k=auto"  # whose answers are the large model's

# Loading and checking a pair takes longer than many an answer, so the last one is kept; no more, or
# models that nobody uses would stay in memory.
_kept: dict[tuple[Any, ...], Pair] = {}


def generate(
    model: PreTrainedModel,
    large_model: PreTrainedModel | str | Path | None = None,
    tokenizer: Any = None,
    router: str = ROUTER,
    **kwargs: Any,
) -> Any:
    """``model.generate`` with a router and a large model.

    Args:
        model: the small model.
        large_model: the large one, or its hub id or folder.
        tokenizer: of both; by default that of the folder or id that ``model`` came from.
        router: as on the command line, ``NAME:SETTING=VALUE:...``.
        kwargs: all else that ``generate`` takes; see docs/generate.md.

    Returns:
        As ``generate``.

    Raises:
        SteerError: no large model, or two that do not fit; before anything is written.
    """
    if large_model is None:
        raise SteerError(
            "large_model is missing: give the large model, or its hub id or folder, as in "
            "model.generate(..., large_model='Qwen/Qwen3-8B')"
        )
    if not isinstance(router, str):
        raise SteerError(f"router must be a text such as first-token:threshold=0.5, got {router!r}")
    made = Router(_pair(model, large_model, tokenizer), parse_policy(router))
    # What the folder's loader was told, and what the call is not to be asked again.
    for name in ("custom_generate", "trust_remote_code"):
        kwargs.pop(name, None)
    return model.generate(custom_generate=made, **kwargs)


def _pair(model: PreTrainedModel, large: PreTrainedModel | str | Path, tokenizer: Any) -> Pair:
    given = isinstance(large, PreTrainedModel)
    key = id(model), id(large) if given else str(large), id(tokenizer), model.dtype, model.device
    if key not in _kept:
        if tokenizer is None:
            name = model.config.name_or_path
            if not name:
                raise SteerError("tokenizer is missing, and the model names no source of its own")
            tokenizer = AutoTokenizer.from_pretrained(name)
        made = Pair(model, large if given else _loaded(model, str(large)), tokenizer)
        _kept.clear()
        _kept[key] = made
    return _kept[key]


def _loaded(model: PreTrainedModel, source: str) -> PreTrainedModel:
    try:
        loaded = AutoModelForCausalLM.from_pretrained(source, dtype=model.dtype)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SteerError(f"large_model {source!r} cannot be loaded: {reason}") from error
    return loaded.to(model.device)
