"""RoPE of queries and keys, and the cache.

Mathematics  For a head of 2 h numbers (a, b): (a cos - b sin, b cos + a sin), each product and then
             the sum rounded to the dtype, which is the order of transformers. With weights, a head
             is first normed, as `add_rms_norm` does (Qwen 3).
Movement     A program for each token and each head: a query's writes its rotated copy; a key's
             writes the key, and its value as it is, where `kv_append_` would.
Bytes        Each head of a token read once and written once, and its cosines and sines; nothing of
             the context.
Sync         One launch; programs know nothing of each other. Nothing is read on the host: an entry
             of rows, starts and counts that does not fit is left out whole, as by `kv_append_`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from steer_kernels.triton.logit_stats import device_of


@triton.jit
def _rotated(
    source, cos, sin, weight, epsilon, dtype: tl.constexpr, SIZE: tl.constexpr, HALF: tl.constexpr,
    NORMS: tl.constexpr,
):  # fmt: skip
    """Both halves of a head, rotated; `cos` and `sin` are those of its token."""
    half: tl.constexpr = SIZE // 2
    at = tl.arange(0, HALF)
    here = at < half
    a = tl.load(source + at, mask=here, other=0.0).to(tl.float32)
    b = tl.load(source + half + at, mask=here, other=0.0).to(tl.float32)
    if NORMS:
        scale = tl.rsqrt(tl.sum(a * a + b * b, axis=0) / SIZE + epsilon)
        low = tl.load(weight + at, mask=here, other=0.0).to(tl.float32)
        high = tl.load(weight + half + at, mask=here, other=0.0).to(tl.float32)
        a = (low * (a * scale).to(dtype).to(tl.float32)).to(dtype).to(tl.float32)
        b = (high * (b * scale).to(dtype).to(tl.float32)).to(dtype).to(tl.float32)
    cos_a = tl.load(cos + at, mask=here, other=0.0).to(tl.float32)
    cos_b = tl.load(cos + half + at, mask=here, other=0.0).to(tl.float32)
    sin_a = tl.load(sin + at, mask=here, other=0.0).to(tl.float32)
    sin_b = tl.load(sin + half + at, mask=here, other=0.0).to(tl.float32)
    first = (a * cos_a).to(dtype).to(tl.float32) - (b * sin_a).to(dtype).to(tl.float32)
    second = (b * cos_b).to(dtype).to(tl.float32) + (a * sin_b).to(dtype).to(tl.float32)
    return first.to(dtype), second.to(dtype)


@triton.jit(
    do_not_specialize=[
        "tokens", "heads", "groups", "cache_rows", "capacity", "angles_batch", "rows_stride",
        "starts_stride", "counts_stride",
    ],
    do_not_specialize_on_alignment=["rows", "starts", "counts"],  # views, 8 bytes apart
)  # fmt: skip
def rope_append_kernel(
    q, k, v, cos, sin, q_weight, k_weight, q_out, k_cache, v_cache, rows, starts, counts,
    tokens, heads, groups, cache_rows, capacity, angles_batch, rows_stride, starts_stride,
    counts_stride, epsilon,
    SIZE: tl.constexpr, HALF: tl.constexpr, VALUES: tl.constexpr, BLOCK: tl.constexpr,
    NORMS: tl.constexpr,
):  # fmt: skip
    token = (tl.program_id(0) // (heads + groups)).to(tl.int64)
    head = tl.program_id(0) % (heads + groups)
    b = token // tokens
    place = token % tokens
    angle = (b * angles_batch + place) * SIZE
    half: tl.constexpr = SIZE // 2
    at = tl.arange(0, HALF)
    here = at < half
    dtype = q_out.dtype.element_ty
    if head < heads:
        first = (token * heads + head) * SIZE
        low, high = _rotated(
            q + first, cos + angle, sin + angle, q_weight, epsilon, dtype, SIZE, HALF, NORMS
        )
        tl.store(q_out + first + at, low, mask=here)
        tl.store(q_out + first + half + at, high, mask=here)
    else:
        row = tl.load(rows + b * rows_stride)
        start = tl.load(starts + b * starts_stride)
        count = tl.load(counts + b * counts_stride)
        fits = (row >= 0) & (row < cache_rows) & (start >= 0) & (count <= tokens)
        fits = fits & (start <= capacity - count) & (place < count)
        if fits:
            group = head - heads
            new = token * groups + group
            line = (row * groups + group) * capacity + start + place
            low, high = _rotated(
                k + new * SIZE, cos + angle, sin + angle, k_weight, epsilon, dtype, SIZE, HALF,
                NORMS,
            )  # fmt: skip
            tl.store(k_cache + line * SIZE + at, low, mask=here)
            tl.store(k_cache + line * SIZE + half + at, high, mask=here)
            dims = tl.arange(0, BLOCK)
            value = tl.load(v + new * VALUES + dims, mask=dims < VALUES)
            tl.store(v_cache + line * VALUES + dims, value, mask=dims < VALUES)


def launch(size: int, values: int) -> dict[str, int | bool]:
    """How to launch for heads of `size` and `values` numbers."""
    half, block = triton.next_power_of_2(size // 2), triton.next_power_of_2(values)
    sizes = {"SIZE": size, "HALF": half, "VALUES": values, "BLOCK": block}
    return {**sizes, "num_warps": 1, "enable_fp_fusion": False}


def rope_append_triton(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    rows: torch.Tensor,
    starts: torch.Tensor,
    counts: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor] | None = None,
    epsilon: float = 0.0,
) -> torch.Tensor:
    """Rotate q and k, write k and v.

    The arguments are taken as checked; see `steer_kernels.layers.rope_append_`.
    """
    out = torch.empty_like(q)
    batch, tokens, heads, size = q.shape
    groups = k.shape[2]
    if q.numel():
        with device_of(q):
            rope_append_kernel[(batch * tokens * (heads + groups),)](
                q, k, v, cos, sin, *(norms or (q, k)), out, k_cache, v_cache, rows, starts, counts,
                tokens, heads, groups, k_cache.shape[0], k_cache.shape[2],
                tokens if cos.shape[0] > 1 else 0, rows.stride(0), starts.stride(0),
                counts.stride(0), epsilon,
                NORMS=norms is not None, **launch(size, v.shape[3]),
            )  # fmt: skip
    return out
