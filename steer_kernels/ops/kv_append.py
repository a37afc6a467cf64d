"""`kv_append_`: new keys and values into a cache.

The cache is preallocated, and written in place.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.autograd import forward_ad

from steer_kernels import reference
from steer_kernels._extension import cuda_extension
from steer_kernels.ops._autograd import check_no_tangent, has_tangent
from steer_kernels.ops._register import checked, register

_SCHEMA = (
    "(Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor k, Tensor v, Tensor rows, Tensor starts, "
    "Tensor counts) -> ()"
)
_DEVICES = ("cpu", "cuda", "meta")


def kv_append_(
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    starts: Tensor,
    counts: Tensor,
) -> None:
    """Write new keys and values into a preallocated cache.

    In place, of ragged rows. For every b and every i < counts[b]:

        k_cache[rows[b], :, starts[b] + i] = k[b, :, i]
        v_cache[rows[b], :, starts[b] + i] = v[b, :, i]

    Bytes are copied as they are. Nothing else of the cache is read or written, so the cost depends
    on the new tokens alone and not on the context; tokens of `k` and `v` from `counts[b]` on are
    not read. A decode step has N = 1; a hand-over, where every row has another number of tokens to
    catch up with, has N = the longest; a roll-back is a smaller `starts[b]` the next time.

    Two entries may share a row of the cache, but not a position of it, and nothing that the call
    reads may lie where it writes: it is refused, as torch's `index_copy_` refuses it, but by the
    bytes that are touched, so that caches may lie side by side in one tensor. No gradient flows;
    the version counters of the caches move as those of `copy_` do, so that autograd refuses to use
    a saved cache that has changed.

    On the CPU the contents of `rows`, `starts` and `counts` are copied, checked, and only then
    used. On CUDA they are on the device, and reading them would stall it: an entry that does not
    fit is left out whole, nothing is ever written outside the cache, and a position that two
    entries write holds bytes of either; caches are refused there that overlap another argument for
    sure (both dense, or at the same address).

    Args:
        k_cache: [R, H, C, Dk] of any dtype; R rows with room for C tokens each. The last dimension
            must be contiguous; other strides are free, but not 0.
        v_cache: [R, H, C, Dv]; Dv and the dtype may differ from those of `k_cache`.
        k: [B, H, N, Dk], dtype of `k_cache`; last dimension contiguous, other strides free.
        v: [B, H, N, Dv], dtype of `v_cache`; likewise.
        rows: [B] int64, the row of the cache, 0 to R - 1; any stride, on the device of the caches.
        starts: [B] int64, position of the first new token, 0 to C.
        counts: [B] int64, number of new tokens, 0 to N; `starts + counts` is at most C.

    Raises:
        TypeError: an argument is no tensor or has another dtype.
        ValueError: another rank, size, layout, device or stride; a cache that requires a gradient
            while gradients are enabled; a forward-mode derivative; memory that is read or written
            twice where the call writes; on the CPU, a value of `rows`, `starts` or `counts` out of
            its range, or two entries that write the same position.
    """
    try:
        if torch.is_grad_enabled() and (k_cache.requires_grad or v_cache.requires_grad):
            raise RuntimeError
        if forward_ad._current_level >= 0 and has_tangent(k_cache, v_cache, k, v):
            raise RuntimeError
        _op(k_cache, v_cache, k, v, rows, starts, counts)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        # The kernel has checked everything already; this only finds a better-typed error. Looking
        # at seven tensors from Python first would cost more than the copy of a token.
        _check(k_cache, v_cache, k, v, rows, starts, counts)
        raise


def _check(*arguments: Tensor) -> None:
    names = ("k_cache", "v_cache", "k", "v", "rows", "starts", "counts")
    for name, tensor in zip(names, arguments, strict=True):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.layout != torch.strided:
            raise ValueError(f"{name} must be a dense tensor, got layout {tensor.layout}")
    k_cache, v_cache, k, v, rows, starts, counts = arguments
    if k_cache.device.type not in _DEVICES:
        raise ValueError(f"k_cache must be on the CPU or a CUDA device, got {k_cache.device}")
    for name, tensor in zip(names, arguments, strict=True):
        if tensor.device != k_cache.device:
            raise ValueError(
                f"{name} must be on the device of k_cache, {k_cache.device}, got {tensor.device}"
            )
    for name, tensor in zip(names[:4], arguments, strict=False):
        check_no_tangent(name, tensor)
    _check_cache("k_cache", k_cache)
    _check_cache("v_cache", v_cache)
    if v_cache.shape[:3] != k_cache.shape[:3]:
        raise ValueError(
            "v_cache must have the shape of k_cache but for the last dimension, "
            f"{list(k_cache.shape)}, got {list(v_cache.shape)}"
        )
    _check_new("k", k, "k_cache", k_cache)
    _check_new("v", v, "v_cache", v_cache)
    if v.shape[:3] != k.shape[:3]:
        raise ValueError(
            "v must have the shape of k but for the last dimension, "
            f"{list(k.shape)}, got {list(v.shape)}"
        )
    for name, tensor in (("rows", rows), ("starts", starts), ("counts", counts)):
        if tensor.dtype != torch.int64:
            raise TypeError(f"{name} must be int64, got {tensor.dtype}")
        if tensor.ndim != 1 or tensor.shape[0] != k.shape[0]:
            raise ValueError(
                f"{name} must have shape [{k.shape[0]}] (batch of k), got {list(tensor.shape)}"
            )


def _check_4d(name: str, tensor: Tensor, shape: str) -> None:
    if tensor.ndim != 4:
        raise ValueError(f"{name} must have shape {shape}, got {list(tensor.shape)}")
    if tensor.shape[3] > 1 and tensor.stride(3) != 1:
        raise ValueError(
            f"{name} must be contiguous in the last dimension, got strides {list(tensor.stride())}"
        )


def _check_cache(name: str, cache: Tensor) -> None:
    _check_4d(name, cache, "[R, H, C, D]")
    if cache.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} must not require a gradient: it is written in place")
    inner = cache.shape[3]  # sorted by stride, each dimension steps over all of the smaller ones
    nested = True
    for stride, size in sorted((cache.stride(dim), cache.shape[dim]) for dim in range(3)):
        if size > 1:
            nested = nested and stride >= inner
            inner += stride * (size - 1)
    if cache.numel() and not nested:
        raise ValueError(
            f"{name} must have memory of its own for every element, got strides "
            f"{list(cache.stride())}"
        )


def _check_new(name: str, new: Tensor, cache_name: str, cache: Tensor) -> None:
    _check_4d(name, new, "[B, H, N, D]")
    if new.dtype != cache.dtype:
        raise TypeError(
            f"{name} must have the dtype of {cache_name}, {cache.dtype}, got {new.dtype}"
        )
    if new.shape[1] != cache.shape[1] or new.shape[3] != cache.shape[3]:
        raise ValueError(
            f"{name} must have the heads and the head size of {cache_name}, {cache.shape[1]} and "
            f"{cache.shape[3]}, got shape {list(new.shape)}"
        )


_fallback = checked(_check, reference.kv_append_)


def _cuda_fallback(*arguments: Tensor) -> None:
    warnings.warn(
        "kv_append_ on CUDA tensors runs on the much slower torch reference, which reads the "
        "indices on the host, as the CUDA part of steer_kernels is not loaded.",
        RuntimeWarning,
        stacklevel=2,
    )
    _fallback(*arguments)


_op = register(
    "kv_append_",
    _SCHEMA,
    cpu=_fallback,
    cuda=_cuda_fallback if cuda_extension is None else None,
    fake=_check,
    written=2,
)
