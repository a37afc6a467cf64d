"""decode_linear on every backend against its definition; bits, layouts and bad arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.backends import needs_extension
from torch import Tensor

import steer_kernels
from steer_kernels import decode_linear, reference
from steer_kernels.ops import decode_linear as op_module

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
Multiply = Callable[..., Tensor]


def backends() -> list[str]:
    return ["reference", *(f"cpu-{isa}" for isa in steer_kernels.supported_cpu_isas())]


@pytest.fixture(params=backends())
def multiply(request: pytest.FixtureRequest) -> Iterator[Multiply]:
    if request.param == "reference":
        yield op_module._fallback
        return
    steer_kernels.set_cpu_isa(request.param.removeprefix("cpu-"))
    yield decode_linear
    steer_kernels.set_cpu_isa(None)


def problem(
    tokens: int, size: int, outputs: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [T, K], weights [N, K] and a bias [N]."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (tokens, size), (outputs, size), (outputs,)
    x, weight, bias = (torch.randn(s, generator=generator).to(dtype) for s in sizes)
    return x, weight, bias


def check(actual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    """Eight roundings of float32 of all that is added up, and one to the dtype of the result."""
    truth = reference.decode_linear(x, weight, bias, out_dtype=torch.float64)
    size = x.double().abs() @ weight.double().abs().T
    if bias is not None:
        size += bias.double().abs()
    allowed = 8 * 2.0**-24 * size + ROUNDING[x.dtype] * truth.abs() + 2.0**-25
    assert actual.dtype == x.dtype
    assert actual.shape == truth.shape
    assert actual.is_contiguous()
    excess = (actual.double() - truth).abs() - allowed
    assert not excess.numel() or excess.max() <= 0, f"off by {excess.max():.3g} beyond the allowed"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33, 125])
@pytest.mark.parametrize(("size", "outputs"), [(896, 128), (2048, 64), (4864, 37)], ids=str)
@pytest.mark.spread(4, ci=16)
def test_shapes_of_real_models(
    multiply: Multiply, tokens: int, size: int, outputs: int, dtype: torch.dtype
) -> None:
    x, weight, bias = problem(tokens, size, outputs, dtype)
    check(multiply(x, weight), x, weight)
    check(multiply(x, weight, bias), x, weight, bias)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100])
@pytest.mark.parametrize("outputs", [1, 3, 4, 5])
@pytest.mark.spread(4, ci=16)
def test_sizes_at_the_edges_of_vectors(
    multiply: Multiply, size: int, outputs: int, dtype: torch.dtype
) -> None:
    for tokens in (1, 3, 6):
        x, weight, bias = problem(tokens, size, outputs, dtype)
        check(multiply(x, weight, bias), x, weight, bias)


def test_nothing_in_gives_nothing_or_the_bias(multiply: Multiply) -> None:
    x, weight, bias = problem(3, 20, 5)
    assert multiply(x[:0], weight).shape == (0, 5)
    assert multiply(x, weight[:0]).shape == (3, 0)
    assert multiply(x[0], weight, bias).shape == (5,)
    assert torch.equal(multiply(torch.zeros_like(x), weight, bias), bias.expand(3, 5))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_not_finite_stays_in_its_row_and_its_token(
    multiply: Multiply, value: float, dtype: torch.dtype
) -> None:
    x, weight, _ = problem(3, 50, 7, dtype)
    clean = multiply(x, weight)
    weight[4, 49] = value
    out = multiply(x, weight)
    others = [i for i in range(7) if i != 4]
    assert torch.equal(out[:, others], clean[:, others])
    assert not out[:, 4].isfinite().any()
    weight[4, 49] = 1.0
    x[1, 0] = value
    out = multiply(x, weight)
    assert out[[0, 2]].isfinite().all()
    assert not out[1].isfinite().any()


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor | None]:
    """Tokens of one to three dimensions, in any layout; weights and bias in the layouts allowed."""
    size, outputs = draw(st.integers(1, 150)), draw(st.integers(0, 40))
    lead = draw(st.lists(st.integers(0, 5), max_size=2))
    dtype = draw(st.sampled_from(DTYPES))
    x, weight, bias = problem(
        torch.Size(lead).numel(), size, outputs, dtype, draw(st.integers(0, 9))
    )
    x = x.view(*lead, size)
    layout = draw(st.sampled_from(["plain", "wide", "transposed", "offset"]))
    if layout == "wide":  # rows with something between them
        room = torch.full((*lead, size + 3), torch.nan, dtype=dtype)
        room[..., :size] = x
        x = room[..., :size]
    elif layout == "transposed":
        x = x.T.contiguous().T if x.ndim == 2 else x.transpose(0, -1).contiguous().transpose(0, -1)
    elif layout == "offset":
        x = torch.cat([torch.ones(1, dtype=dtype), x.flatten()])[1:].view(x.shape)
    if draw(st.booleans()):
        room = torch.full((outputs, size + draw(st.integers(1, 9))), torch.nan, dtype=dtype)
        room[:, :size] = weight
        weight = room[:, :size]
    if draw(st.booleans()):
        bias = bias.repeat_interleave(2)[::2]
    return x, weight, draw(st.sampled_from([None, bias]))


@settings(max_examples=80, deadline=None)
@given(arguments=problems())
def test_any_layout_equals_the_definition(
    arguments: tuple[Tensor, Tensor, Tensor | None],
) -> None:
    for isa in steer_kernels.supported_cpu_isas():
        steer_kernels.set_cpu_isa(isa)
        try:
            check(decode_linear(*arguments), *arguments)
        finally:
            steer_kernels.set_cpu_isa(None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [64, 77, 2500])  # a block, with an end, and several
def test_a_token_alone_and_an_output_alone_have_the_same_bits(
    multiply: Multiply, size: int, dtype: torch.dtype
) -> None:
    x, weight, bias = problem(130, size, 23, dtype)
    together = multiply(x, weight, bias)
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 121):
        assert torch.equal(multiply(x[:count], weight, bias), together[:count])
    for i in range(23):
        assert torch.equal(multiply(x, weight[i : i + 1], bias[i : i + 1]), together[:, i : i + 1])


@needs_extension
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_threads_change_no_bit(dtype: torch.dtype) -> None:
    x, weight, bias = problem(3, 512, 2001, dtype)
    torch.set_num_threads(1)
    one = decode_linear(x, weight, bias)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        assert torch.equal(decode_linear(x, weight, bias), one)


# ---- the interface ----------------------------------------------------------------------------

X, WEIGHT, BIAS = problem(2, 16, 5)
CASES = [
    (([1.0], WEIGHT), TypeError, "x must be a torch.Tensor, got list"),
    ((X, WEIGHT, 3), TypeError, "bias must be a torch.Tensor, got int"),
    ((X.double(), WEIGHT), TypeError, "x must be float32, bfloat16 or float16, got .*float64"),
    ((X, WEIGHT.half()), TypeError, "weight must be torch.float32, as x, got torch.float16"),
    ((X, WEIGHT, BIAS.half()), TypeError, "bias must be torch.float32, as x, got torch.float16"),
    ((X, WEIGHT[0]), ValueError, r"weight must have shape \[N, K\], K >= 1, got \[16\]"),
    ((X[:, :0], WEIGHT[:, :0]), ValueError, r"weight must have shape .*, got \[5, 0\]"),
    ((X, WEIGHT.T.contiguous().T), ValueError, "weight must be contiguous in the last dimension"),
    ((X[:, :8], WEIGHT), ValueError, r"x must have shape \[..., 16\] .*, got \[2, 8\]"),
    ((X[0, 0], WEIGHT), ValueError, r"x must have shape \[..., 16\] .*, got \[\]"),
    ((X, WEIGHT, BIAS[:4]), ValueError, r"bias must have shape \[5\] .*, got \[4\]"),
    ((X.to_sparse(), WEIGHT), ValueError, "x must be a dense tensor"),
    ((X, WEIGHT.to("meta")), ValueError, "weight must be on the device of x, cpu, got meta"),
    ((X, WEIGHT.clone().requires_grad_()), ValueError, "weight must not require a gradient"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), CASES)
def test_bad_arguments_name_themselves(arguments: tuple, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        decode_linear(*arguments)


@needs_extension
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X.double(), WEIGHT.double()), "x must be Float, BFloat16 or Half, got Double"),
        ((X, WEIGHT.half()), "weight must have the dtype of x, Float, got Half"),
        ((X, WEIGHT[0]), "weight must have shape .*, got 1 dimension"),
        ((X[:, :0], WEIGHT[:, :0]), "weight must have at least one column"),
        ((X, WEIGHT.T.contiguous().T), "weight must be contiguous in its last dimension, got .* 5"),
        ((X[:, :8], WEIGHT), "x must have the columns of weight, 16, .*, got 8"),
        ((X[0, 0], WEIGHT), "x must have the columns of weight, 16, .*, got 0"),
        ((X, WEIGHT, BIAS[:4]), r"bias must have shape \[5\], got 1 dim.* and 4 element"),
    ],
)
def test_the_raw_operator_checks_too(arguments: tuple, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.steer_kernels.decode_linear(*arguments)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    x, weight, bias = problem(6, 20, 5, dtype)
    op = torch.ops.steer_kernels.decode_linear.default
    torch.library.opcheck(op, (x, weight))
    torch.library.opcheck(op, (x.view(2, 3, 20).transpose(0, 1), weight, bias))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_into_one_graph(backend: str) -> None:
    def step(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return decode_linear(x * 2.0, weight, bias).flatten() + 1.0

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=backend, dynamic=True)
    with torch.no_grad():
        for tokens in (2, 3, 9):
            arguments = problem(tokens, 40, 7)
            torch.testing.assert_close(compiled(*arguments), step(*arguments))


def test_meta_tensors_are_checked_and_that_is_all() -> None:
    out = decode_linear(*(tensor.to("meta") for tensor in (X, WEIGHT, BIAS)))
    assert out.shape == (2, 5)
    assert out.device.type == "meta"


@pytest.mark.gpu
def test_on_cuda_the_way_out_is_named() -> None:
    with pytest.raises(ValueError, match=r"x must be on the CPU.*nn.functional.linear"):
        decode_linear(X.cuda(), WEIGHT.cuda())
