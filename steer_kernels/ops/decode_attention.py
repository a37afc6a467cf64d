"""`decode_attention`: attention of a few new queries, on the CPU.

Each row has its own keys and values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steer_kernels import reference
from steer_kernels.ops._autograd import check_no_tangent, has_tangent
from steer_kernels.ops._register import checked, register

_SCHEMA = (
    "(Tensor query, Tensor keys, Tensor values, Tensor starts, float? scale=None, "
    "int? window=None) -> Tensor"
)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_DEVICES = ("cpu", "meta")
_LARGEST = torch.finfo(torch.float32).max


def decode_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    starts: Tensor,
    scale: float | None = None,
    window: int | None = None,
) -> Tensor:
    """Attention of a decode step over rows of any length.

    Each row reads its own keys, once for all heads of a group. Query i of row b stands at position
    t = starts[b] + i. Its key is there already, and it reads the keys j of max(0, t - window + 1)
    .. min(t, S - 1):

        out[b, i, h] = sum_j p_j values[b, g, j]
        p = softmax over j of scale * <query[b, h, i], keys[b, g, j]>

    with g = h // (H / Hkv), the key head that H / Hkv neighbouring heads share. What no query of a
    row reads is not touched and may hold anything, NaN included: rows of different length need no
    mask. A query that has nothing to read (S = 0, or a window that lies behind S), or whose scores
    are all -inf, gives zeros. Padding, queries behind a row's last token, reads what is there.

    Dtypes are read natively and computed in float32. The keys are cut into blocks of 256, counted
    from position 0, which are merged in order; so a query's result is bitwise the same in any
    batch, beside any other queries of its row, and on any number of threads. There is no gradient.

    On the CPU only: on CUDA torch's `scaled_dot_product_attention` serves this case, with a mask
    where rows differ in length.

    Args:
        query: [B, H, N, D] float32, bfloat16 or float16. Meant for N of a few; memory for N
            queries is N / 256 of that of the keys. Last dimension contiguous, other strides free.
        keys: [B, Hkv, S, D], dtype of `query`; H is a multiple of Hkv. Likewise a view of a
            preallocated cache, last dimension contiguous, other strides free.
        values: [B, Hkv, S, Dv], dtype of `query`; likewise.
        starts: [B] int64, position of the first query of each row, at least 0; any stride.
        scale: of the scores; 1 / sqrt(D) by default.
        window: keys that a query reads at most, its own included; all by default.

    Returns:
        [B, N, H, Dv], contiguous, in the dtype of `query`.

    Raises:
        TypeError: an argument is no tensor or number, or has another dtype.
        ValueError: another rank, size, layout, device or stride; `scale` not finite; `window` below
            1; a negative value of `starts`; an argument that requires a gradient while gradients
            are enabled, or carries a forward-mode one.
    """
    try:
        if torch.is_grad_enabled() and (
            query.requires_grad or keys.requires_grad or values.requires_grad
        ):
            raise RuntimeError
        if has_tangent(query, keys, values):
            raise RuntimeError
        return _op(query, keys, values, starts, scale, window)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        # The kernel has checked everything; this only finds a better-typed error, where a decode
        # step does not pay for it.
        _check(query, keys, values, starts, scale, window)
        raise


def _check(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    starts: Tensor,
    scale: float | None = None,
    window: int | None = None,
) -> None:
    given = {"query": query, "keys": keys, "values": values, "starts": starts}
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.layout != torch.strided:
            raise ValueError(f"{name} must be a dense tensor, got layout {tensor.layout}")
        if tensor.device.type not in _DEVICES:
            raise ValueError(
                f"{name} must be on the CPU, got {tensor.device}: use "
                "torch.nn.functional.scaled_dot_product_attention on other devices"
            )
        if tensor.device != query.device:
            raise ValueError(
                f"{name} must be on the device of query, {query.device}, got {tensor.device}"
            )
        if tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{name} must not require a gradient: this operator has none; call it under "
                "torch.no_grad()"
            )
        check_no_tangent(name, tensor)
    for name in ("query", "keys", "values"):
        _check_heads(name, given[name], query)
    _check_sizes(query, keys, values, starts)
    _check_numbers(scale, window)


def _check_heads(name: str, tensor: Tensor, query: Tensor) -> None:
    if tensor.dtype not in _DTYPES or tensor.dtype != query.dtype:
        wanted = "float32, bfloat16 or float16" if name == "query" else f"{query.dtype}, as query"
        raise TypeError(f"{name} must be {wanted}, got {tensor.dtype}")
    if tensor.ndim != 4:
        shape = "[B, H, N, D]" if name == "query" else "[B, Hkv, S, D]"
        raise ValueError(f"{name} must have shape {shape}, got {list(tensor.shape)}")
    if tensor.shape[3] < 1:
        raise ValueError(f"{name} must have a head size of at least 1, got {list(tensor.shape)}")
    if tensor.shape[3] > 1 and tensor.stride(3) != 1:
        raise ValueError(
            f"{name} must be contiguous in the last dimension, got strides {list(tensor.stride())}"
        )


def _check_sizes(query: Tensor, keys: Tensor, values: Tensor, starts: Tensor) -> None:
    batch, heads, _, size = query.shape
    if keys.shape[0] != batch or keys.shape[3] != size:
        raise ValueError(
            f"keys must have the batch and the head size of query, {batch} and {size}, got shape "
            f"{list(keys.shape)}"
        )
    if values.shape[:3] != keys.shape[:3]:
        raise ValueError(
            "values must have the shape of keys but for the last dimension, "
            f"{list(keys.shape)}, got {list(values.shape)}"
        )
    if keys.shape[1] < 1 or heads % keys.shape[1] != 0:
        raise ValueError(
            f"query must have a multiple of the {keys.shape[1]} heads of keys, got {heads} heads"
        )
    if starts.dtype != torch.int64:
        raise TypeError(f"starts must be int64, got {starts.dtype}")
    if starts.ndim != 1 or starts.shape[0] != batch:
        raise ValueError(
            f"starts must have shape [{batch}] (batch of query), got {list(starts.shape)}"
        )


def _check_numbers(scale: float | None, window: int | None) -> None:
    if scale is not None:
        if isinstance(scale, bool) or not isinstance(scale, (float, int, torch.SymFloat)):
            raise TypeError(f"scale must be a number or None, got {scale!r}")
        if not -_LARGEST <= scale <= _LARGEST:
            raise ValueError(f"scale must be a finite number in float32, got {scale}")
    if window is not None:
        if isinstance(window, bool) or not isinstance(window, (int, torch.SymInt)):
            raise TypeError(f"window must be an int or None, got {window!r}")
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        if window >= 2**63:
            raise ValueError(f"window must be below 2^63, got {window}")


def _empty(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    starts: Tensor,
    scale: float | None = None,
    window: int | None = None,
) -> Tensor:
    batch, heads, queries, _ = query.shape
    return query.new_empty(batch, queries, heads, values.shape[3])


_fallback = checked(_check, reference.decode_attention)
_op = register("decode_attention", _SCHEMA, cpu=_fallback, fake=checked(_check, _empty))
