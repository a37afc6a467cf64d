"""kv_append_ on every backend against its definition: what is written, and that nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.append_problems import COUNTS, ROWS, STARTS, bits, filled, index, problem
from torch import Tensor

from steer_kernels import kv_append_, reference
from steer_kernels.ops import kv_append as op_module

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64]
Append = Callable[..., None]


def _on_cuda(*arguments: Tensor) -> None:
    """The CUDA kernel for CPU tensors; storages are copied whole, so strides arrive there."""

    def there(tensor: Tensor) -> Tensor:
        storage = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).cuda()
        return storage.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    moved = [there(tensor) for tensor in arguments]
    kv_append_(*moved)
    for here, device in zip(arguments[:2], moved[:2], strict=True):
        here.copy_(device)


BACKENDS: dict[str, Append] = {
    "reference": op_module._fallback,
    "cpu": kv_append_,
    "cuda": _on_cuda,
}


@pytest.fixture(
    params=["reference", "cpu", pytest.param("cuda", marks=pytest.mark.gpu)], scope="module"
)
def append(request: pytest.FixtureRequest) -> Append:
    return BACKENDS[request.param]


# ---- what is written ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_element_by_the_formula(append: Append, dtype: torch.dtype) -> None:
    arguments = problem(dtype)
    before = [tensor.clone() for tensor in arguments]
    append(*arguments)
    rows, starts, counts = (tensor.tolist() for tensor in arguments[4:])
    for side in (0, 1):
        expected = before[side]
        for b in range(3):
            for i in range(counts[b]):
                expected[rows[b], :, starts[b] + i] = before[side + 2][b, :, i]
        assert torch.equal(bits(arguments[side]), bits(expected))
    for tensor, old in zip(arguments[2:], before[2:], strict=True):
        assert torch.equal(bits(tensor), bits(old))


def test_keys_and_values_of_two_dtypes(append: Append) -> None:
    arguments = problem()
    arguments[1], arguments[3] = arguments[1].half(), arguments[3].half()
    expected = [tensor.clone() for tensor in arguments]
    reference.kv_append_(*expected)
    append(*arguments)
    for actual, wanted in zip(arguments, expected, strict=True):
        assert torch.equal(bits(actual), bits(wanted))


@st.composite
def layouts(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """A tensor of this shape in any order of dimensions, with gaps and an offset."""
    order = draw(st.permutations(range(3)))
    gaps = [draw(st.integers(0, 2)) for _ in range(4)]
    offset = draw(st.sampled_from([0, 1, 2, 8, 16]))
    wide = [shape[dim] + gap for dim, gap in zip((*order, 3), gaps, strict=True)]
    size = wide[0] * wide[1] * wide[2] * wide[3]
    flat = filled((1, size + offset), dtype, seed)[0, offset:]
    inverse = [order.index(dim) for dim in range(3)]
    view = flat.view(wide).permute(*inverse, 3)
    return view[tuple(slice(0, n) for n in shape)]


@st.composite
def problems(draw: st.DrawFn) -> list[Tensor]:
    dtype = draw(st.sampled_from(DTYPES[:4]))
    cache_rows, heads, capacity = (draw(st.integers(1, n)) for n in (4, 3, 12))
    batch, new = draw(st.integers(0, 4)), draw(st.integers(0, 6))
    k_size, v_size = (draw(st.sampled_from([1, 2, 3, 8, 16, 17, 64])) for _ in range(2))
    rows, starts, counts, taken = [], [], [], {}
    for _ in range(batch):  # tokens of one row come one after another, with gaps
        row = draw(st.integers(0, cache_rows - 1))
        start = draw(st.integers(taken.get(row, 0), capacity))
        count = draw(st.integers(0, min(new, capacity - start)))
        taken[row] = start + count
        for values, value in ((rows, row), (starts, start), (counts, count)):
            values.append(value)
    shapes = (
        (cache_rows, heads, capacity, k_size),
        (cache_rows, heads, capacity, v_size),
        (batch, heads, new, k_size),
        (batch, heads, new, v_size),
    )
    order = draw(st.permutations(range(batch)))
    spread = draw(st.integers(1, 3))  # stride of the index tensors
    indices = []
    for values in (rows, starts, counts):
        wide = torch.full((batch * spread,), -7)
        wide[::spread] = index(*(values[i] for i in order))
        indices.append(wide[::spread])
    tensors = [draw(layouts(shape, dtype, seed)) for seed, shape in enumerate(shapes)]
    return [*tensors, *indices]


def whole_storage(tensor: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


@settings(max_examples=80, deadline=None)
@given(arguments=problems())
def test_any_layout_writes_what_the_definition_writes(
    append: Append, arguments: list[Tensor]
) -> None:
    """Compared over the whole storage, so a byte written between the elements is seen too."""
    copies = []
    for tensor in arguments:
        storage = whole_storage(tensor).clone().untyped_storage()
        copy = torch.empty(0, dtype=tensor.dtype).set_(
            storage, tensor.storage_offset(), tensor.shape, tensor.stride()
        )
        copies.append(copy)
    reference.kv_append_(*copies)
    append(*arguments)
    for actual, wanted in zip(arguments, copies, strict=True):
        assert torch.equal(whole_storage(actual), whole_storage(wanted))


def test_large_copies_split_over_threads() -> None:
    torch.set_num_threads(2)
    cache = filled((4, 4, 600, 64), torch.float32, 1)
    k = filled((4, 4, 500, 64), torch.float32, 2)
    other, expected = cache.clone(), cache.clone()
    expected[:, :, 50:550] = k
    kv_append_(cache, other, k, k, torch.arange(4), torch.full((4,), 50), torch.full((4,), 500))
    assert torch.equal(bits(cache), bits(expected))
    assert torch.equal(bits(other), bits(expected))


def test_keys_and_values_interleaved_in_one_buffer(append: Append) -> None:
    packed = torch.zeros(2, 3, 5, 2 * 8)
    k_cache, v_cache = packed.split(8, -1)
    k, v = torch.randn(2, 3, 2, 16).split(8, -1)
    append(k_cache, v_cache, k, v, index(0, 1), index(1, 3), index(2, 2))
    assert torch.equal(packed[0, :, 1:3], torch.cat([k, v], -1)[0])
    assert torch.equal(packed[1, :, 3:5], torch.cat([k, v], -1)[1])
    assert packed.count_nonzero() == 2 * 3 * 2 * 16


def test_a_row_may_be_appended_to_twice_in_one_call(append: Append) -> None:
    cache, other = torch.zeros(1, 1, 6, 2), torch.zeros(1, 1, 6, 2)
    k = torch.arange(1.0, 13).view(3, 1, 2, 2)
    append(cache, other, k, k, index(0, 0, 0), index(4, 0, 2), index(2, 2, 2))
    assert cache.flatten().tolist() == [5, 6, 7, 8, 9, 10, 11, 12, 1, 2, 3, 4]


# ---- bad values -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "starts", "counts", "message"),
    [
        (index(3, 5, 4), STARTS, COUNTS, r"rows\[1\] is 5"),
        (index(3, 0, -1), STARTS, COUNTS, r"rows\[2\] is -1"),
        (ROWS, index(5, 0, -2), COUNTS, r"starts\[2\] is -2"),
        (ROWS, index(5, 10, 7), COUNTS, r"starts\[1\] is 10"),
        (ROWS, STARTS, index(5, 0, 2), r"counts\[0\] is 5"),
        (ROWS, STARTS, index(4, 0, -1), r"counts\[2\] is -1"),
        (ROWS, STARTS, index(4, 0, 3), r"counts\[2\] is 3.*they exceed"),
        (ROWS, index(5, 0, 2**63 - 1), COUNTS, r"starts\[2\] is 9223372036854775807"),
        (ROWS, STARTS, index(4, 0, 2**63 - 1), r"counts\[2\] is 9223372036854775807"),
        (index(3, 3, 4), index(2, 5, 7), index(4, 1, 2), r"rows\[\d\] is 3.*both would write"),
        (index(3, 0, 3), index(5, 0, 5), index(1, 0, 1), r"rows\[\d\] is 3.*both would write"),
    ],
)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_bad_values_name_themselves_and_nothing_is_written(
    backend: str, rows: Tensor, starts: Tensor, counts: Tensor, message: str
) -> None:
    arguments = [*problem()[:4], rows, starts, counts]
    before = [bits(tensor).clone() for tensor in arguments]
    with pytest.raises(ValueError, match=message):
        BACKENDS[backend](*arguments)
    for tensor, old in zip(arguments, before, strict=True):
        assert torch.equal(bits(tensor), old)


@pytest.mark.gpu
def test_on_the_device_an_entry_that_does_not_fit_is_left_out() -> None:
    arguments = problem()
    arguments[4], arguments[5], arguments[6] = index(3, 9, 4), index(5, 0, 8), index(4, 1, 2)
    expected = [tensor.clone() for tensor in arguments[:2]]
    expected[0][3, :, 5:9] = arguments[2][0]
    expected[1][3, :, 5:9] = arguments[3][0]
    _on_cuda(*arguments)
    assert torch.equal(bits(arguments[0]), bits(expected[0]))
    assert torch.equal(bits(arguments[1]), bits(expected[1]))
