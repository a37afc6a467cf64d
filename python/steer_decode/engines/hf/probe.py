"""Whether the engine serves a model exactly.

It is found by what the model does. Two short texts are read in one pass from scratch, by the model
alone, and once more as the engine reads: in rows of different length, in parts, with a roll-back
between them, and beside a long row. The logits must be the same up to rounding. Of the long row
only the last token is read, its keys are random; what the model makes of it with a mask of its own
must be what it makes of it with ours. Where anything differs, slower ways are tried (without
`decode_attention`, rows one by one, without roll-backs), and what is served in none of them is
refused. For scaled RoPE, ``probe_rope.py`` tries positions at the far end of the context.

A probe takes four passes over 35 tokens in all where everything is as usual. It is made once for a
model as it is loaded.
"""

from __future__ import annotations

import inspect
import time
import weakref
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...core.shape import ModelShape
from ...core.transcript import Transcript
from .lane import Lane
from .probe_rope import probe_rope
from .probe_script import far, script, two_texts
from .serving import USUAL, Serving
from .wrapped import unwrapped

# The most by which logits may differ, as a part of their spread, before rounding is measured.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.08}
MOST = 0.4  # beyond, it is no rounding
WAYS = (
    USUAL,
    Serving(direct=False),
    Serving(masks=False),
    Serving(direct=False, masks=False),
    Serving(direct=False, masks=False, roll_back=False),
)


@dataclass(frozen=True)
class Probe:
    """What was found out about a model.

    Attributes:
        problems: why it cannot be served; sentences without a subject. None where it can.
        serving: the ways of the engine that are exact for it.
        seconds: that finding out took.
    """

    problems: tuple[str, ...]
    serving: Serving
    seconds: float

    @property
    def cohort(self) -> bool:
        """Whether rows of different length run in one pass.

        Else they are answered one by one.
        """
        return not self.problems and self.serving.masks

    @property
    def roll_back(self) -> bool:
        """Whether tokens can be taken back for free.

        Else the text is read again.
        """
        return not self.problems and self.serving.roll_back

    @property
    def notes(self) -> tuple[str, ...]:
        """What is served in another way than usual.

        Sentences without a subject.
        """
        serving, scaled = self.serving, self.serving.scaled
        notes = []
        if not serving.direct:
            notes.append("runs with the attention that it was loaded with, not with ours")
        if not serving.masks:
            notes.append("runs rows of different length one by one")
        if not serving.roll_back:
            notes.append("reads the whole text again where tokens are taken back")
        if scaled is not None:
            notes.append(f"runs rows of more than {scaled.boundary} tokens one by one")
        if serving.limit is not None:
            notes.append(f"is served up to {serving.limit} tokens")
        return tuple(notes)


_known: weakref.WeakKeyDictionary[PreTrainedModel, tuple[object, Probe]]
_known = weakref.WeakKeyDictionary()


def probe(model: PreTrainedModel) -> Probe:
    """Try a model, or recall what was found.

    It is tried again if it has been given another attention, dtype or device since.

    Args:
        model: a causal language model, all of it in memory.

    Returns:
        What was found. Nothing, and :data:`USUAL` ways, where logits are NaN or memory runs out,
        which the loop tells at the token where it happens; such a model is tried again next time.
    """
    state = _state(model)
    known = _known.get(model)
    if known is not None and known[0] == state:
        return known[1]
    begin = time.perf_counter()
    try:
        found = _try(model)
    except (_NotSound, MemoryError):
        return Probe((), USUAL, time.perf_counter() - begin)
    except RuntimeError as error:
        if not _is_memory(error):
            raise
        return Probe((), USUAL, time.perf_counter() - begin)
    found = replace(found, seconds=time.perf_counter() - begin)
    _known[model] = state, found
    return found


class _NotSound(Exception):
    """The model's own logits are NaN or infinite."""


def _state(model: PreTrainedModel) -> object:
    config = model.config.get_text_config(decoder=True)
    return getattr(config, "_attn_implementation", None), model.dtype, model.device


def _is_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate" in str(error)


def _try(model: PreTrainedModel) -> Probe:
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return _trial(model)
    finally:
        model.train(training)


def _trial(model: PreTrainedModel) -> Probe:
    try:
        shape = ModelShape.of(model)
        texts = two_texts(model, shape)
        if texts is None:
            return Probe((), USUAL, 0.0)
        expected = _from_scratch(model, texts)
    except _NotSound:
        raise
    except Exception as error:
        if _is_memory(error):
            raise
        return Probe((f"fails at a plain forward pass ({_first_line(error)})",), USUAL, 0.0)
    tolerance = TOLERANCE.get(model.dtype, TOLERANCE[torch.bfloat16])
    tried = _Tried(model, shape, texts, expected)
    if tried.differs(USUAL) > tolerance:
        if not torch.equal(_from_scratch(model, texts), expected):
            what = "gives other logits when it reads the same text again"
            return Probe((what,), USUAL, 0.0)
        rounding = _rounding(model, texts, expected)
        if rounding > MOST:
            what = "makes of a token what the tokens behind it say: it is no causal language model"
            return Probe((what,), USUAL, 0.0)
        tolerance = min(max(tolerance, 8 * rounding), MOST)
    for serving in WAYS:
        if tried.differs(serving) <= tolerance:
            scaled, limit = probe_rope(model, shape, texts[0], expected[0], tolerance)
            return Probe((), replace(serving, scaled=scaled, limit=limit), 0.0)
    return Probe((tried.reason(),), USUAL, 0.0)


class _Tried:
    """The ways that were tried with one model, and how much the logits of each are off."""

    def __init__(
        self, model: PreTrainedModel, shape: ModelShape, texts: Tensor, expected: Tensor
    ) -> None:
        self._model, self._shape = model, shape
        self._texts, self._expected = texts, expected
        self._found: dict[Serving, float] = {}
        self._reason = ""

    def differs(self, serving: Serving) -> float:
        """How much logits are off when the texts are read this way; infinite if it fails."""
        if serving not in self._found:
            self._found[serving] = self._read(serving)
        return self._found[serving]

    def reason(self) -> str:
        """Why none of the ways will do."""
        if self._reason:
            return self._reason
        least = min(self._found.values())
        return (
            "gives other logits when it reads a text in parts than in one piece, through the "
            f"engine's KV cache (they are off by {least:.0%} of their spread)"
        )

    def _read(self, serving: Serving) -> float:
        transcripts = [Transcript([]) for _ in range(3)]
        lane = Lane(self._model, self._shape, transcripts, serving=serving)
        length = far(self._model, self._shape)
        off = []
        try:
            for logits, want in script(lane, transcripts, self._texts.tolist(), length):
                if isinstance(want, tuple):
                    want = self._expected[want[0], want[1] - 1]
                off.append(difference(logits, want))
        except Exception as error:
            if _is_memory(error):
                raise
            self._reason = f"fails when it reads a text in parts ({_first_line(error)})"
            return float("inf")
        if not any(layer.is_initialized for layer in lane.cache.layers):
            self._reason = "keeps no KV cache, so that a token written sees none of those before it"
            return float("inf")
        if self._model.dtype == torch.float32:
            return max(off)
        # An expert that is chosen otherwise by a rounding throws one of them off.
        return sorted(off)[len(off) // 2]


def _from_scratch(model: PreTrainedModel, texts: Tensor) -> Tensor:
    """Logits [n, l, V] behind every token of ``texts`` [n, l], by one pass without a cache.

    Positions are given where the model takes them, as ``generate`` does: left to themselves, those
    of RoBERTa and its kin do not begin at 0.
    """
    more = {}
    if "position_ids" in inspect.signature(unwrapped(model).forward).parameters:
        more["position_ids"] = torch.arange(texts.shape[1], device=texts.device).expand_as(texts)
    mask = torch.ones_like(texts)
    out = model(input_ids=texts, attention_mask=mask, use_cache=False, **more)
    logits: Tensor = out.logits
    if not bool(torch.isfinite(logits).all()):
        raise _NotSound
    return logits


def _rounding(model: PreTrainedModel, texts: Tensor, expected: Tensor) -> float:
    """How much the logits of a text's beginning depend on what else a pass is over."""
    half = texts.shape[1] // 2 + 1
    found = _from_scratch(model, texts[:1, :half])
    return max(difference(found[0, i], expected[0, i]) for i in range(half))


def difference(found: Tensor, expected: Tensor) -> float:
    """How far two sets of logits [V] are apart.

    The length of what is between them, in lengths of the second's spread around its mean.
    """
    spread = expected.float() - expected.float().mean()
    off = (found.float() - expected.float()).norm() / spread.norm().clamp_min(1e-30)
    return float(off.nan_to_num(float("inf")))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}"
