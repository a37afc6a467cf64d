"""The sizes of a decoder, and what its passes cost.

The formulas are those that :mod:`steer_decode.core.cost` states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedModel

from .experts import Experts
from .transcript import Writer
from .weights import Weights, read_weights


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder that its cost depends on.

    Attributes:
        parameters: all parameters N, a tied embedding counted once.
        active: those that a token passes; all but the experts that are not chosen for it.
        body: weights of the matrix products of a token before the head, those of the experts that
            are chosen for it included (the embedding table is no product).
        head: weights of the language-model head, hidden size times rows.
        dense_bytes: bytes of the matrices that every pass reads: body without experts, and head.
        held_bytes: bytes of all weights in memory.
        experts: the experts among which routers choose.
        query_width: heads times head size, H d.
        kv_width: key-value heads times head size.
        windows: for each layer, how many keys a token may attend to; None is all of them.
        weight_bytes: bytes of a weight that is not quantized, and of a cached key or value.
        activations: numbers that a long pass holds for each of its tokens at the most, see
            :func:`_activations`.
        widths: query and key-value width of each layer, where layers differ; else empty.
    """

    parameters: int
    active: int
    body: int
    head: int
    dense_bytes: int
    held_bytes: int
    query_width: int
    kv_width: int
    windows: tuple[int | None, ...]
    weight_bytes: int
    activations: int
    experts: tuple[Experts, ...] = ()
    widths: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, model: PreTrainedModel, weights: Weights | None = None) -> ModelShape:
        """Read the sizes off a causal language model.

        The model is loaded or on the meta device. ``weights`` are those that it is to have where
        they are not those that it has.
        """
        config = model.config.get_text_config(decoder=True)
        widths, head_dim = attention_widths(model)
        queries, keys = widths[0]
        found = weights or read_weights(model)
        return cls(
            parameters=found.parameters,
            active=found.active,
            body=found.body + sum(e.active for e in found.experts),
            head=found.head,
            dense_bytes=found.body_bytes + found.head_bytes,
            held_bytes=found.nbytes,
            experts=found.experts,
            query_width=queries,
            kv_width=keys,
            windows=_windows(config),
            weight_bytes=model.dtype.itemsize,
            activations=_activations(config.hidden_size, found.widest, queries, keys, head_dim),
            widths=widths if len(set(widths)) > 1 else (),
        )

    @cached_property
    def layers(self) -> tuple[tuple[tuple[int | None, int, int], int], ...]:
        """Layers by window, query width and key-value width, counted."""
        widths = self.widths or ((self.query_width, self.kv_width),) * len(self.windows)
        return tuple(Counter((w, *q) for w, q in zip(self.windows, widths, strict=True)).items())

    def flops(self, new: int, past: int, heads: int = 1) -> int:
        """FLOPs of one forward pass.

        ``new`` tokens follow ``past`` cached ones; the last ``heads`` positions give logits.
        """
        attended = sum(n * q * _causal_pairs(new, past, w) for (w, q, _), n in self.layers)
        return 2 * new * self.body + 2 * heads * self.head + 4 * attended

    def read_bytes(self, tokens: int) -> float:
        """Bytes of the weights that one pass reads.

        The pass is over ``tokens`` tokens, of all its rows. Of experts those that are expected to
        be chosen by any of them, see ``Experts.distinct``.
        """
        chosen = sum(e.layers * e.distinct(tokens) * e.nbytes for e in self.experts)
        return self.dense_bytes + chosen

    def bytes_read(self, past: int, rows: int = 1, tokens: int | None = None) -> float:
        """Bytes that one row's share of a forward pass reads.

        Keys and values of the row's ``past`` tokens, and its part of the weights. The pass reads
        ``tokens`` tokens, of all its ``rows``; by default one of each.
        """
        return self.bytes_of_passes(1, past, rows, tokens)

    def bytes_of_passes(
        self, passes: int, past: int, rows: int = 1, tokens: int | None = None
    ) -> float:
        """Bytes that one row's share of several passes reads.

        Each pass is as for :meth:`bytes_read`, over one token of the row, and follows the one
        before; the first comes after ``past`` tokens.
        """
        cached = sum(n * k * _cached(past, passes, w) for (w, _, k), n in self.layers)
        weights = passes * self.read_bytes(tokens or rows) / rows
        return weights + self.weight_bytes * 2 * cached

    @property
    def activation_bytes(self) -> int:
        """Most bytes that a long pass holds for a token."""
        return self.weight_bytes * self.activations

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of ``tokens`` keys and values, all of sliding layers."""
        return self.weight_bytes * 2 * tokens * sum(n * k for (_, _, k), n in self.layers)


def active_parameters(shapes: Mapping[Writer, ModelShape]) -> dict[Writer, int]:
    """Parameters that a token passes, of models not passed whole."""
    return {w: s.active for w, s in shapes.items() if s.active != s.parameters}


def attention_widths(model: PreTrainedModel) -> tuple[tuple[tuple[int, int], ...], int]:
    """Query and key-value width of each layer; head size.

    A width is heads times head size; where keys and values differ in size, it is that of their
    mean. Of layers that take the keys and values of others, the key-value width is 0. Latent
    attention (DeepSeek) caches what it expands at each pass in transformers 5, one head of latents
    and one of rotary keys, and the expanded keys and values in transformers 4.
    """
    config = model.config.get_text_config(decoder=True)
    layers = range(config.num_hidden_layers)
    configs = getattr(config, "per_layer_config", None) or [config for _ in layers]
    modes = getattr(config, "kv_sharing_modes", None) or [None for _ in layers]
    latent = any(hasattr(m, "expand_kv") for m in model.modules())
    widths = []
    for one, mode in zip(configs, modes, strict=True):
        heads, (key, value) = one.num_attention_heads, _head_sizes(one)
        kv_heads = getattr(one, "num_key_value_heads", None) or heads
        kept = (
            (config.kv_lora_rank + config.qk_rope_head_dim) if latent else kv_heads * (key + value)
        )
        widths.append((heads * (key + value) // 2, 0 if mode == "reuse" else kept // 2))
    # The config as a whole may refuse to say what differs between layers (Gemma 4).
    return tuple(widths), max(_head_sizes(one)[0] for one in configs)


def _head_sizes(config: Any) -> tuple[int, int]:
    """The size of a head's key and of its value."""
    key = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if getattr(config, "qk_nope_head_dim", None):
        key = config.qk_nope_head_dim + config.qk_rope_head_dim
    return key, getattr(config, "v_head_dim", None) or key


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
