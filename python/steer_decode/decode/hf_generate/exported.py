"""What a ``custom_generate`` folder calls.

Transformers runs ``custom_generate/generate.py`` of a folder in place of its loop, before it has
prepared anything. The function here makes a router of what it is given and calls ``generate``
again, with the router.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ...errors import SteerError
from ...models.pair import Pair
from ...policies import parse_policy
from ..router import Router

ROUTER = "speculative:k=auto"  # whose answers are the large model's

# Loading and checking a pair takes longer than many an answer.
_routers: WeakKeyDictionary[PreTrainedModel, dict[tuple[Any, ...], Router]] = WeakKeyDictionary()
_larges: dict[tuple[str, str, str], PreTrainedModel] = {}


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
    made = _router(model, large_model, tokenizer, router)
    # What the folder's loader was told, and what the call is not to be asked again.
    for name in ("custom_generate", "trust_remote_code"):
        kwargs.pop(name, None)
    return model.generate(custom_generate=made, **kwargs)


def _router(model: PreTrainedModel, large: Any, tokenizer: Any, router: str) -> Router:
    large = large if isinstance(large, PreTrainedModel) else _loaded(model, str(large))
    known = _routers.setdefault(model, {})
    key = id(large), id(tokenizer), router
    if key not in known:
        if tokenizer is None:
            name = model.config.name_or_path
            if not name:
                raise SteerError("tokenizer is missing, and the model names no source of its own")
            tokenizer = AutoTokenizer.from_pretrained(name)
        known[key] = Router(Pair(model, large, tokenizer), parse_policy(router))
    return known[key]


def _loaded(model: PreTrainedModel, source: str) -> PreTrainedModel:
    key = source, str(model.dtype), str(model.device)
    if key not in _larges:
        try:
            loaded = AutoModelForCausalLM.from_pretrained(source, dtype=model.dtype)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise SteerError(f"large_model {source!r} cannot be loaded: {reason}") from error
        _larges[key] = loaded.to(model.device)
    return _larges[key]
