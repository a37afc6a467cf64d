"""`logit_stats_` and `sample_logits_`, into tensors that the caller keeps.

The figures are the same. For loops of one's own: what comes with the package calls the operators. A
call of those goes through torch's dispatcher and allocates six or eight tensors: about 4 us, a
sixth of a call for one row. A loop that calls one of them for every token can keep its outputs
instead:

    out = empty_stats(rows=1, k=8)
    while True:
        logit_stats_(model(...), out)        # every call writes over the last one's figures

These take CPU tensors only, no subclasses of `torch.Tensor`, and are not traced: code for
`torch.compile`, autograd or CUDA calls the operators. The memory of a tensor is read as it lies, so
one that torch negates lazily (`z.conj().imag`) has to be made real first, by `resolve_neg`. Results
are the same bit for bit. The native part (csrc/bind/fast.cpp) comes with an editable install and
is not in the wheel, whose one binary serves every Python; without it the same functions call the
operators and copy.
"""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from steer_kernels import _extension
from steer_kernels.ops import _logits, _sampling
from steer_kernels.ops._logits import MAX_K
from steer_kernels.ops._sampling import Cuts
from steer_kernels.ops.logit_stats import LogitStats, logit_stats
from steer_kernels.ops.sample_logits import SampledLogits, sample_logits

__all__ = ["empty_sampled", "empty_stats", "logit_stats_", "native", "sample_logits_"]


def _load() -> ModuleType | None:
    if _extension.extension is None:  # STEER_KERNELS_BACKEND=reference, or a broken install
        return None
    try:
        return importlib.import_module("steer_kernels._fast")
    except ModuleNotFoundError:
        return None
    except Exception as error:  # built for another torch or another machine
        warnings.warn(
            f"steer_kernels.fast calls the operators, as its native part does not load ({error}); "
            "reinstall the package with pip install -e .",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


_native = _load()
_extension.follow_isa(_native)


def native() -> bool:
    """Whether the native part is in use.

    Without it the calls below go through the operators.
    """
    return _native is not None


def empty_stats(rows: int, k: int = 8) -> LogitStats:
    """Make outputs for `logit_stats_`, of `rows` rows.

    Uninitialised CPU tensors with `k` ranks.

    Raises:
        ValueError: `rows` is negative, or `k` is not in 1..64.
    """
    if rows < 0:
        raise ValueError(f"rows must not be negative, got {rows}")
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k must be in 1..{MAX_K}, got {k}")
    return LogitStats(
        max_logit=_empty(rows),
        lse=_empty(rows),
        entropy=_empty(rows),
        topk_logits=_empty(rows, k),
        topk_ids=_empty(rows, k, dtype=torch.int64),
        valid=_empty(rows, dtype=torch.bool),
    )


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Whatever torch's default dtype and device are."""
    return torch.empty(shape, dtype=dtype, device="cpu")


def empty_sampled(rows: int, k: int = 8) -> SampledLogits:
    """Outputs for `sample_logits_`; see `empty_stats`."""
    stats = empty_stats(rows, k)
    return SampledLogits(*stats, _empty(rows, dtype=torch.int64), _empty(rows))


def logit_stats_(logits: Tensor, out: LogitStats, vocab_size: int | None = None) -> LogitStats:
    """`logit_stats(logits, k, vocab_size)` written into `out`.

    k is the columns of `out.topk_ids`.

    Args:
        logits: [B, V] float32, bfloat16 or float16 on the CPU, read where it lies; any row stride,
            last dimension contiguous. No gradient flows, as in `logit_stats`.
        out: contiguous CPU tensors of the dtypes and shapes that `empty_stats(B, k)` gives; they
            may share no memory with `logits` or each other. Their version counters move, as those
            of torch's in-place functions do.
        vocab_size: number of columns that are tokens; V by default.

    Returns:
        `out`.

    Raises:
        TypeError: an argument or a field of `out` is no tensor, a subclass, or has another dtype.
        ValueError: a shape, stride, device or number that does not fit; the message names it.
    """
    if _native is not None:
        try:
            _native.logit_stats_(logits, out, vocab_size)
            increment_version(out)
            return out
        except (TypeError, RuntimeError):
            _logits.check(logits, 1, vocab_size)  # says it better, if it is one of these
            raise
    _copy(logit_stats(logits, _ranks(out, LogitStats), vocab_size), out)
    return out


def sample_logits_(
    logits: Tensor,
    uniform: Tensor,
    out: SampledLogits,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    vocab_size: int | None = None,
) -> SampledLogits:
    """`sample_logits` written into `out`, as `empty_sampled` gives it.

    The other arguments are as there.

    Returns:
        `out`.

    Raises:
        TypeError, ValueError: as `logit_stats_`, and for `uniform` and the numbers.
        RuntimeError: a value of `uniform` outside [0, 1).
    """
    if _native is not None:
        try:
            _native.sample_logits_(
                logits, uniform, out, temperature, top_k, top_p, min_p, vocab_size
            )
            increment_version(out)
            return out
        except (TypeError, RuntimeError):
            cuts = Cuts(temperature, top_k, top_p, min_p)
            _sampling.check(logits, uniform, cuts, 1, vocab_size)
            raise
    k = _ranks(out, SampledLogits)
    _copy(sample_logits(logits, uniform, temperature, top_k, top_p, min_p, k, vocab_size), out)
    return out


def _ranks(out: Any, kind: type) -> int:
    if not isinstance(out, kind):
        raise TypeError(f"out must be a {kind.__name__}, got {type(out).__name__}")
    return out.topk_ids.shape[-1]  # type: ignore[attr-defined]


def _copy(source: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> None:
    """Into tensors of the same dtype and shape; checked before the first one is written."""
    names = getattr(source, "_fields", ())
    for name, new, old in zip(names, source, out, strict=True):
        if old.dtype != new.dtype:
            raise TypeError(f"out.{name} has the wrong dtype: {old.dtype}, not {new.dtype}")
        if old.shape != new.shape:
            raise ValueError(f"out.{name} must have shape {list(new.shape)}, got {list(old.shape)}")
    for new, old in zip(source, out, strict=True):
        old.copy_(new)
