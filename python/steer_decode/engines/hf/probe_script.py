"""What a probe has a lane read.

Two short texts as the loop may, beside a long one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...core.shape import ModelShape
from ...core.transcript import Transcript
from .lane import Lane
from .rope import boundaries

TOKENS = 8  # of a text
SMALL_WINDOW = 64  # sliding windows up to here are crossed by the texts
FAR = 1024  # tokens of the text that is made up, or a window's more
MADE_UP_BYTES = 2**23  # that its cache may take, or SHARE of the weights
SHARE = 0.02


def script(
    lane: Lane, transcripts: list[Transcript], texts: list[list[int]], far: int
) -> Iterator[tuple[Tensor, tuple[int, int] | Tensor]]:
    """Read two texts as the loop may, beside another.

    Yields logits, and what they must be: those behind so many tokens of one of the texts, or the
    model's own. Other tokens are read behind the beginning of the second text and taken back. The
    third is ``far`` tokens long, none of which are read: its keys and values are random.
    """
    first, second, third = transcripts
    n = len(texts[0])
    first.ids += texts[0][: n - 3]
    second.ids += [*texts[1][:2], *texts[0][2:n]]
    yield lane.catch_up([0, 1])[0], (0, n - 3)
    del second.ids[2:]
    lane.roll_back(1, 2)
    first.ids.append(texts[0][n - 3])
    second.ids += texts[1][2 : n - 3]
    third.ids += [texts[0][0]] * (far + 1)
    lane.cache.make_up(2, far)
    rows = lane.catch_up([0, 1, 2])
    yield rows[0], (0, n - 2)
    yield rows[1], (1, n - 3)
    direct, lane.forward.direct = lane.forward.direct, False
    lane.cache.roll_back(2, far)
    yield rows[2], lane.read([2], [third.ids[far:]])[0]  # with the model's own mask
    if not direct:
        # A part of a text behind another, with the mask that the model makes.
        del first.ids[n - 4 :]
        lane.roll_back(0, n - 4)
        first.ids += texts[0][n - 4 :]
        yield lane.catch_up([0])[0], (0, n)


def two_texts(model: PreTrainedModel, shape: ModelShape) -> Tensor | None:
    """Two texts [2, n] of ordinary tokens.

    None where the context is too short for them.
    """
    config = model.config.get_text_config(decoder=True)
    windows = [w for w in shape.windows if w is not None and w <= SMALL_WINDOW]
    n = max([TOKENS, *(w + TOKENS for w in windows)])
    n = min(n, getattr(config, "max_position_embeddings", None) or n)
    special: set[object] = set()
    for some in (model.config, config):
        for name, value in some.to_dict().items():
            if name.endswith(("token_id", "token_ids", "token_index")):
                special.update(value if isinstance(value, list) else [value])
    usual = [i for i in range(min(config.vocab_size, 1000)) if i not in special]
    if n < TOKENS or len(usual) < 2:
        return None
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(usual), (2, n), generator=generator)
    return torch.tensor(usual)[drawn].to(model.device)


def far(model: PreTrainedModel, shape: ModelShape) -> int:
    """The length of a text whose keys are made up.

    It is longer than the windows, and takes little memory.
    """
    config = model.config.get_text_config(decoder=True)
    windows = [window for window in shape.windows if window is not None]
    room = max(MADE_UP_BYTES, int(SHARE * shape.held_bytes))
    most = room // max(1, shape.cache_bytes(3))
    # Beyond the first of its boundaries, scaled RoPE is another matter, see probe_rope.
    ends = [*boundaries(config), getattr(config, "max_position_embeddings", None) or 2**31]
    return max(1, min(max([FAR, *(w + TOKENS for w in windows)]), most, min(ends) - 2))
