"""What a routed answer costs, in four figures that are always given side by side.

1. FLOPs as the papers count them: 2 N for each generated token, discarded ones included, N being
   the parameters of the model that wrote it. Prefill is free in this count.
2. FLOPs processed: every token that went through a model, prompt, hand-over and discarded ones
   alike, with attention. A forward pass over n tokens after p cached ones costs
   2 n N_body + 2 N_head + 4 sum over layers of H d (keys attended); the head sees one position,
   or each token of a step that the large model grades. What is computed and thrown away is left
   out: padding of rows of different length in one pass, and the masked half of a square. So is the
   work of a router itself: the network of `learned`, a reward function of the user's. And what is
   spared is counted: parts of a prompt whose logits nobody needs end before the last layer's
   attention.
3. Bytes read: the weights once a forward pass, and the cached keys and values once. Answers that
   are written together share the reading of the weights evenly.
4. Seconds on the wall; likewise shared by answers that are written together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder that its cost depends on.

    Attributes:
        parameters: all parameters N, a tied embedding counted once.
        body: weights of the matrix products before the head (the embedding table is no product).
        head: weights of the language-model head, hidden size times rows.
        query_width: heads times head size, H d.
        kv_width: key-value heads times head size.
        windows: for each layer, how many keys a token may attend to; None is all of them.
        weight_bytes: bytes of one weight, as loaded; cached keys and values have the same size.
        activations: numbers that a long pass holds for each of its tokens at the most, see
            :func:`_activations`.
    """

    parameters: int
    body: int
    head: int
    query_width: int
    kv_width: int
    windows: tuple[int | None, ...]
    weight_bytes: int
    activations: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> ModelShape:
        """Reads the sizes off a loaded causal language model."""
        config = model.config.get_text_config(decoder=True)
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        decoder = model.get_decoder()
        head = model.get_output_embeddings()
        products = [
            m for m in decoder.modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not head
        ]
        outputs = [m.out_features if isinstance(m, nn.Linear) else m.nf for m in products]
        widest = max(outputs, default=0)
        queries, keys = heads * head_dim, kv_heads * head_dim
        return cls(
            parameters=model.num_parameters(),
            body=sum(m.weight.numel() for m in products),
            head=head.weight.numel(),
            query_width=queries,
            kv_width=keys,
            windows=_windows(config),
            weight_bytes=model.dtype.itemsize,
            activations=_activations(config.hidden_size, widest, queries, keys, head_dim),
        )

    @cached_property
    def layers_by_window(self) -> tuple[tuple[int | None, int], ...]:
        """How many layers have each window."""
        return tuple(Counter(self.windows).items())

    def attended(self, new: int, past: int) -> int:
        """Query-key pairs over all layers when ``new`` tokens follow ``past`` cached ones."""
        return sum(n * _causal_pairs(new, past, window) for window, n in self.layers_by_window)

    def flops(self, new: int, past: int, heads: int = 1) -> int:
        """FLOPs of one forward pass that returns the logits of its last ``heads`` positions."""
        products = 2 * new * self.body + 2 * heads * self.head
        return products + 4 * self.query_width * self.attended(new, past)

    def bytes_read(self, past: int, rows: int = 1, passes: int = 1) -> float:
        """Bytes that a forward pass has to read for one of its ``rows``: weights, keys, values.

        Or that so many passes have to read, over one token each, the first after ``past`` others.
        """
        cached = sum(n * _cached(past, passes, window) for window, n in self.layers_by_window)
        weights = passes * (self.body + self.head) / rows
        return self.weight_bytes * (weights + 2 * self.kv_width * cached)

    @property
    def activation_bytes(self) -> int:
        """Bytes that a long pass holds for each of its tokens at the most."""
        return self.weight_bytes * self.activations

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of the keys and values of ``tokens`` tokens; sliding layers keep all of theirs."""
        return self.weight_bytes * 2 * self.kv_width * len(self.windows) * tokens


def _activations(hidden: int, widest: int, queries: int, keys: int, head_dim: int) -> int:
    """Numbers a token of a pass that fills the processor; exact for Llama in float32.

    The models of transformers hold the embedding, the input of the layer, its residual and its
    norm's output all through a layer. Beside these come, one after another: gate, up and their
    product (``widest`` is the most that a matrix product puts out); queries, keys and values with
    their rotated copies and attention's output; or norms that work in float32. Other families hold
    less than this, or as much. Not counted are masks and repeated keys, which other
    attention than ours makes, the logits, and experts, which are no matrix products of their own.
    """
    most = max(3 * widest, 5 * queries + 3 * keys, 8 * hidden)
    return 4 * hidden + most + 2 * head_dim + 4  # an angle's cosine and sine; id and position


def _windows(config: object) -> tuple[int | None, ...]:
    layers: int = config.num_hidden_layers  # type: ignore[attr-defined]
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        # Mistral-type configs name no kinds and slide in every layer; Qwen2 has a switch.
        slides = window is not None and getattr(config, "use_sliding_window", True)
        return (window if slides else None,) * layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _causal_pairs(new: int, past: int, window: int | None) -> int:
    """Sum over i = past+1 .. past+new of min(i, window)."""
    end = past + new
    if window is None:
        return (end * (end + 1) - past * (past + 1)) // 2
    growing = min(end, window)
    ramp = (growing * (growing + 1) - past * (past + 1)) // 2 if past < window else 0
    return ramp + window * (end - max(past, growing))


def _cached(past: int, passes: int, window: int | None) -> int:
    """Sum over i = past .. past+passes-1 of min(i, window)."""
    return _causal_pairs(passes, past - 1, window) if past else _causal_pairs(passes - 1, 0, window)


class Pass(NamedTuple):
    """One row of a forward pass: new tokens after cached ones, beside other rows."""

    new: int
    past: int
    rows: int = 1
    heads: int = 1  # positions that the language-model head works on


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
        for (new, past, rows, heads), n in _runs(passes):
            usage.forwards += n
            usage.processed += n * new
            # Tokens read one after another attend to what they would in one pass over all of them.
            usage.flops += shape.flops(n * new, past, n * heads)
            usage.bytes_read += shape.bytes_read(past, rows, n)
        return usage


def _runs(passes: Iterable[Pass]) -> Iterator[tuple[Pass, int]]:
    """Passes over one token each that follow one another, as the first of them and their number."""
    first, n = None, 0
    for current in passes:
        if first and current == (1, first.past + n, first.rows, first.heads) and first.new == 1:
            n += 1
            continue
        if first:
            yield first, n
        first, n = current, 1
    if first:
        yield first, n


@dataclass(frozen=True)
class Cost:
    """The four figures, and how the tokens and steps are shared out.

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
