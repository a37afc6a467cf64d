"""A finished answer, read once more by a model.

The decode loop is not touched: once an answer is whole, a model reads it, prompt and all, as a
prefill. That is exact for either model, whoever wrote the tokens, and costs about a tenth of
writing them. It is in none of the answer's costs. Beside the loop's own numbers these differ by the
rounding of larger matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from ..core.transcript import Transcript, Writer
from ..engines.hf.gradients import without_gradients
from ..engines.hf.scaled_lane import lane_of
from ..models.pair import Pair

PART = 256  # tokens whose logits are held at a time, at least; a piece is never split


def prefilled(
    pair: Pair,
    writer: Writer,
    prompt_ids: Sequence[int],
    pieces: Sequence[Sequence[int]],
    part: int = PART,
) -> Iterator[tuple[list[int], Tensor]]:
    """Read an answer in parts, for its logits.

    They are those that its tokens are drawn from.

    Args:
        pair: its models.
        writer: the one that reads.
        prompt_ids: what stands before the answer.
        pieces: its tokens, in pieces that stay together, steps say.
        part: tokens that are read at a time, at least.

    Yields:
        The lengths of the next pieces, and raw logits [their sum, V] in the model's dtype.
    """
    model = pair.model(writer)
    transcript = Transcript(list(prompt_ids))
    total = len(transcript) + sum(map(len, pieces))
    lane = lane_of(model, pair.shapes[writer], 1, total, serving=pair.serving[writer])
    lane.open(0, transcript)
    waiting: list[int] = []  # lengths of the pieces that are in the transcript and not yet read
    for i, piece in enumerate(pieces):
        for token in piece:
            transcript.append(token, writer)
        waiting.append(len(piece))
        if sum(waiting) < part and i < len(pieces) - 1:
            continue
        # The token before them is read once more: the first of them was drawn from what comes
        # after it.
        n = sum(waiting) + 1
        with without_gradients(model):
            lane.roll_back(0, len(transcript) - n)
            lane.shorten(0, n)
            logits = lane.read([0], [transcript.ids[lane.read_mark() :]], keep=n)[0, :-1]
        yield waiting, logits
        waiting = []
