"""Whether RoPE frequencies depend on the length of text.

It is found by trying. Positions are free to choose, so no long text is needed: the first tokens of
a short one are read once more, and one token beside them that stands at the far end of the context.
What the model makes of the first ones must not change by that.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...core.shape import ModelShape
from .cache import KVCache
from .cache_support import cache_argument
from .rope import Scaled, boundaries, context_length
from .scaled_lane import forget, growing


def probe_rope(
    model: PreTrainedModel, shape: ModelShape, text: Tensor, expected: Tensor, tolerance: float
) -> tuple[Scaled | None, int | None]:
    """How RoPE frequencies depend on the length of text.

    And the longest text that is served.

    Args:
        model: which has passed the other trials.
        shape: its sizes.
        text: ids [n] of a short text.
        expected: logits [n, V] behind each of its tokens.
        tolerance: of a difference, as a part of their spread.

    Returns:
        None where they do not depend on it, and a limit where it is not known how they do.
    """
    config = model.config.get_text_config(decoder=True)
    candidates = boundaries(config)
    length = context_length(config)
    if not candidates or length is None:
        return None, None
    growing_modules = growing(model)
    try:
        far = _beside(model, text, length - 1)
        if _off(far, expected) <= tolerance:
            return None, None
        boundary = next(
            (b for b in candidates if _off(_beside(model, text, b - 1), expected) <= tolerance),
            None,
        )
        if boundary is None:
            return None, min(candidates)
        middle = _beside(model, text, (boundary + length) // 2)
        grows = _off(middle, far) > tolerance
        if grows and not growing_modules:
            return None, boundary  # what it remembers of longer texts, it would not forget
        return Scaled(boundary, grows, _begins_anew(model, shape, boundary)), None
    except (RuntimeError, ValueError, TypeError, IndexError):
        return None, min(candidates)
    finally:
        forget(growing_modules)


def _beside(model: PreTrainedModel, text: Tensor, position: int) -> Tensor:
    """Logits [n - 1, V] of a text's first tokens, in a pass whose last token is far away."""
    ids = text[None]
    positions = torch.arange(len(text), device=ids.device)[None]
    positions[0, -1] = max(position, len(text) - 1)
    forget(growing(model))
    # A mask, or transformers may take a jump of positions for the border between two texts.
    out = model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=torch.ones_like(ids),
        use_cache=False,
    )
    logits: Tensor = out.logits[0, :-1]
    return logits


def _off(found: Tensor, expected: Tensor) -> float:
    expected = expected[: len(found)].float()
    spread = (expected - expected.mean(-1, keepdim=True)).norm(dim=-1).clamp_min(1e-30)
    off = (found.float() - expected).norm(dim=-1) / spread
    return float(off.nan_to_num(float("inf")).max())


def _begins_anew(model: PreTrainedModel, shape: ModelShape, boundary: int) -> bool:
    """Whether ``generate`` gives up its cache when a text grows by one token beyond the boundary.

    It asks the model for the arguments of the next pass; no pass is run.
    """
    cache = KVCache(shape.windows)
    cache.state.span = cache.state.span._replace(start=boundary, width=boundary)
    ids = torch.zeros(1, boundary + 1, dtype=torch.int64, device=model.device)
    name = cache_argument(model)
    prepared = model.prepare_inputs_for_generation(
        ids, **{name: cache}, attention_mask=torch.ones_like(ids), use_cache=True
    )
    return prepared.get(name) is not cache
