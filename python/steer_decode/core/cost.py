"""What a routed answer costs, in four figures.

They are always given side by side:

1. FLOPs as the papers count them: 2 N for each generated token, discarded ones included, N being
   the parameters of the model that wrote it; of a mixture of experts those that a token passes.
   Prefill is free in this count.
2. FLOPs processed: every token that went through a model, prompt, hand-over and discarded ones
   alike, with attention. A forward pass over n tokens after p cached ones costs
   2 n N_body + 2 N_head + 4 sum over layers of H d (keys attended); of experts N_body has those
   that a router chooses for a token; the head sees one position, or each token of a step that the
   large model grades. What is computed and thrown away is left out: padding of rows of different
   length in one pass, and the masked half of a square. So is the work of a router itself: the
   network of `learned`, a reward function of the user's. And what is spared is counted: parts of a
   prompt whose logits nobody needs end before the last layer's attention.
3. Bytes read: the weights once a forward pass, and the cached keys and values once. Of experts as
   many as are expected to be chosen by any token of the pass. Quantized weights count as they are
   held, with their scales. Answers that are written together share the reading of the weights
   evenly.
4. Seconds on the wall; likewise shared by answers that are written together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

from .shape import ModelShape


class Pass(NamedTuple):
    """One row of a pass: new tokens after cached ones."""

    new: int
    past: int
    rows: int = 1
    heads: int = 1  # positions that the language-model head works on
    tokens: int = 0  # new tokens of all rows; 0 is as many of each row as of this one


@dataclass
class Usage:
    """Counts of what one model did. ``written`` includes ``discarded``."""

    written: int = 0
    discarded: int = 0
    forwards: int = 0
    processed: int = 0
    flops: int = 0
    bytes_read: float = 0

    @classmethod
    def of(cls, shape: ModelShape, passes: Iterable[Pass]) -> Usage:
        """The counts of one row's forward passes."""
        usage = cls()
        for (new, past, rows, heads, tokens), n in _runs(passes):
            usage.forwards += n
            usage.processed += n * new
            # Tokens read one after another attend to what they would in one pass over all of them.
            usage.flops += shape.flops(n * new, past, n * heads)
            usage.bytes_read += shape.bytes_of_passes(n, past, rows, tokens or rows * new)
        return usage


def _runs(passes: Iterable[Pass]) -> Iterator[tuple[Pass, int]]:
    """Passes over one token each that follow one another, as the first of them and their number."""
    first, n = None, 0
    for current in passes:
        if first and first.new == 1 and current == first._replace(past=first.past + n):
            n += 1
            continue
        if first:
            yield first, n
        first, n = current, 1
    if first:
        yield first, n


@dataclass(frozen=True)
class Cost:
    """The four figures, and how tokens and steps are shared.

    ``large_token_share`` and ``large_step_share`` are over what was kept; ``flops_paper`` and the
    rest are over everything that was done.
    """

    flops_paper: float
    flops_processed: float
    bytes_read: float
    seconds: float
    small: Usage
    large: Usage
    large_token_share: float
    large_step_share: float
    hand_overs: int
    discarded_tokens: int

    def to_dict(self) -> dict[str, object]:
        return asdict(self)
