"""How a model is served, as its probe has found.

That is, which of the engine's ways it takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from .rope import Scaled


@dataclass(frozen=True)
class Serving:
    """What a lane may do with a model.

    Attributes:
        direct: attention on the CPU may be `decode_attention`, which knows no mask of the model's,
            and layers on a GPU may be ours.
        masks: rows of different length may run in one pass. Else each runs by itself.
        roll_back: what was read may be forgotten from the end. Else a text that is cut is read
            again from its beginning.
        scaled: RoPE frequencies that depend on the length of the text, or None.
        limit: longest text that is served exactly, where that is less than the positions hold.
    """

    direct: bool = True
    masks: bool = True
    roll_back: bool = True
    scaled: Scaled | None = None
    limit: int | None = None


USUAL = Serving()
