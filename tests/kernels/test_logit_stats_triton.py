"""What only the Triton kernel of logit_stats has: splits, alignment, workspace, compiled code.

What it computes is tested with the other backends in test_logit_stats.py. The compiled code is
inspected without a GPU: this file, run as a script and so outside the interpreter, compiles the
kernel ahead of time and says what ptxas made of it.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.ahead_of_time import compiler, serve
from support.compiled import DEVICE, INTEGERS, POINTERS, _output
from support.selection import one_of_three
from torch import Tensor

pytest.importorskip("triton")

from steer_kernels import reference
from steer_kernels.triton import heuristics
from steer_kernels.triton import logit_stats as module
from steer_kernels.triton.heuristics import LAUNCH, TILE, RowSplit, list_size, split_rows

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def run(logits: Tensor, k: int, vocab_size: int, tiles_per_split: int | None = None):
    """All outputs, with a chosen split where one is given."""
    if tiles_per_split is None:
        return module.logit_stats_triton(logits, k, vocab_size)
    tiles = -(-vocab_size // TILE)
    cut = RowSplit(tiles, tiles_per_split, -(-tiles // tiles_per_split))
    out = module.Outputs.empty(logits.shape[0], k, logits.device)
    workspace = module.Workspace.empty(logits.shape[0], k, cut, logits.device)
    module.logit_stats_into(logits, k, vocab_size, out, cut, workspace)
    assert not workspace.arrived.any()
    return out


def assert_same_bits(a, b) -> None:
    for name, x, y in zip(module.Outputs._fields, a, b, strict=True):
        as_bits = (lambda t: t.view(torch.int32)) if x.dtype == torch.float32 else (lambda t: t)
        assert torch.equal(as_bits(x), as_bits(y)), name


def assert_right(out, logits: Tensor, k: int, vocab_size: int) -> None:
    truth = reference.logit_stats(logits.cpu(), k, vocab_size, out_dtype=torch.float64)
    for name, x, y in zip(module.Outputs._fields, out, truth, strict=True):
        tolerance = (
            {"rtol": 2e-6, "atol": 4e-6} if name in ("lse", "entropy") else {"rtol": 0, "atol": 0}
        )
        torch.testing.assert_close(
            x.cpu().to(y.dtype), y, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}", **tolerance
        )


def placed(values: Tensor, offset: int, pad: int) -> Tensor:
    """A copy of `values` in a buffer of NaN: `offset` elements into it, `pad` between the rows."""
    rows, columns = values.shape
    buffer = torch.full((offset + rows * (columns + pad) + 64,), torch.nan, dtype=values.dtype)
    view = buffer.to(values.device)[offset:].as_strided((rows, columns), (columns + pad, 1), offset)
    return view.copy_(values)


# ---- splits and alignment --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_split_does_not_change_a_bit(dtype: torch.dtype) -> None:
    columns = 4 * TILE + 1  # five tiles, the last with fewer columns than k
    logits = (torch.randn(2, columns, device=DEVICE) * 4).to(dtype)
    logits[0] = logits[0].round()  # ties across every split
    outs = [run(logits, 8, columns, tiles_per_split) for tiles_per_split in (1, 2, 3, 5)]
    assert_right(outs[0], logits, 8, columns)
    for out in outs[1:]:
        assert_same_bits(out, outs[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_alignment_does_not_change_a_bit_and_nothing_outside_is_counted(dtype: torch.dtype) -> None:
    columns = 3 * TILE + 5
    values = (torch.randn(1, columns, device=DEVICE) * 4).to(dtype)
    values[0, [0, 2 * TILE - 1, columns - 1]] = 30.0  # the edges of the row, and of a tile
    expected = run(values, 3, columns)
    assert_right(expected, values, 3, columns)
    for offset in range(16 // values.element_size()):
        assert_same_bits(run(placed(values, offset, 0), 3, columns), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_odd_stride_equal_the_same_rows_alone(dtype: torch.dtype) -> None:
    columns = 2 * TILE + 7
    values = (torch.randn(3, columns + 2, device=DEVICE) * 4).to(dtype)
    values[:, columns:] = torch.inf  # a padded head
    together = run(placed(values, 1, 3), 8, columns)
    assert_right(together, values, 8, columns)
    for row in range(3):
        alone = run(values[row : row + 1].clone(), 8, columns)
        assert_same_bits(alone, [field[row : row + 1] for field in together])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_short_last_program_offers_only_what_it_has(dtype: torch.dtype) -> None:
    columns = TILE + 1  # the second program has one element and must fill no other slot
    logits = torch.full((2, columns), -torch.inf, dtype=dtype, device=DEVICE)
    logits[0, [7, TILE]] = torch.tensor([1.0, 2.0], dtype=dtype, device=DEVICE)
    logits[1, TILE] = -0.0
    out = run(logits, 20, columns, tiles_per_split=1)
    assert out.topk_ids[0, :4].tolist() == [TILE, 7, 0, 1]
    assert_right(out, logits, 20, columns)


def test_descending_and_ascending_rows() -> None:
    """The least and the most work for the list."""
    columns = 3 * TILE
    ramp = torch.arange(columns, dtype=torch.float32, device=DEVICE) * 1e-3
    logits = torch.stack([ramp, ramp.flip(0)])
    assert_right(run(logits, 64, columns, tiles_per_split=3), logits, 64, columns)


# ---- policy and workspace --------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [1, TILE, TILE + 1, 151936, 262144, 1_000_003])
@pytest.mark.parametrize("rows", [1, 2, 7, 64, 256, 100_000])
def test_split_covers_the_row(rows: int, vocab_size: int) -> None:
    cut = split_rows(rows, vocab_size, sm_count=132)
    assert cut.tiles == -(-vocab_size // TILE)
    assert (cut.splits - 1) * cut.tiles_per_split < cut.tiles <= cut.splits * cut.tiles_per_split
    assert 1 <= cut.splits <= heuristics.MAX_SPLITS


def test_list_size() -> None:
    assert [list_size(k) for k in (1, 16, 17, 20, 33, 64)] == [16, 16, 32, 32, 64, 64]


def test_workspace_may_be_used_again() -> None:
    logits = torch.randn(2, TILE + 10, device=DEVICE)
    cut = RowSplit(2, 1, 2)
    workspace = module.Workspace.empty(2, 4, cut, logits.device)
    for scale in (1.0, -3.0):
        out = module.Outputs.empty(2, 4, logits.device)
        module.logit_stats_into(logits * scale, 4, TILE + 10, out, cut, workspace)
        assert_right(out, logits * scale, 4, TILE + 10)


def test_no_rows_launch_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "logit_stats_kernel", None)
    out = run(torch.empty(0, 10, device=DEVICE), 3, 10)
    assert [tuple(field.shape) for field in out] == [(0,), (0,), (0,), (0, 3), (0, 3), (0,)]


# ---- compiled code ---------------------------------------------------------------------------


def compile_kernel(dtype: str, capability: int, k: int) -> dict[str, int | bool]:
    """Compile for a GPU that need not be there, and count what matters in the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {"TILE": TILE, "VEC": 4 if dtype == "fp32" else 8, "K": list_size(k)}
    signature = {"logits": f"*{dtype}", **dict.fromkeys(INTEGERS, "i32"), **POINTERS}
    signature |= dict.fromkeys(constants, "constexpr")
    names = list(signature)
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in POINTERS}
    source = ASTSource(module.logit_stats_kernel, signature, constexprs=constants, attrs=aligned)
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=LAUNCH)

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _output(tools / "cuobjdump", "-res-usage", file.name)
        sass = _output(tools / "nvdisasm", "-c", file.name)
    ptx = kernel.asm["ptx"]
    before_atomic = ptx[: ptx.index("atom.global.gpu.acq_rel.add")]
    return {
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "stack": int(re.search(r"STACK:(\d+)", usage)[1]),
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", sass)),
        "wide_loads": ptx.count("ld.global.v2.b64"),
        "element_loads": len(re.findall(r"ld\.global\.b(?:16|32) ", ptx)),
        "wide_workspace_loads": ptx.count("ld.global.cg.v2.b64"),
        "wide_loads_sass": len(re.findall(r"LDG\.E\.(?:\w+\.)*128", sass)),
        "atomics": ptx.count("atom."),
        "barrier_after_stores": before_atomic.rindex("bar.sync")
        > before_atomic.rindex("st.global"),
    }


@pytest.fixture(scope="module")
def report() -> Iterator[Callable[..., dict[str, Any]]]:
    """`compile_kernel` in a process of its own."""
    with compiler(__file__) as compiled:
        yield compiled


def _gate_cases() -> list:
    cases = []
    for a, capability in enumerate((80, 90, 100)):
        for b, dtype in enumerate(("bf16", "fp16", "fp32")):
            for c, k in enumerate((8, 20, 64)):
                quick = (capability, dtype, k) == (90, "bf16", 20)
                marks = () if quick else one_of_three(a, b, c)
                cases.append(
                    pytest.param(
                        dtype, capability, k, marks=marks, id=f"sm_{capability}-{dtype}-{k}"
                    )
                )
    return cases


@pytest.mark.skipif(sys.platform != "linux", reason="Triton carries its CUDA tools on Linux")
@pytest.mark.parametrize(("dtype", "capability", "k"), _gate_cases())
def test_compiled_code(
    report: Callable[..., dict[str, Any]],
    dtype: str,
    capability: int,
    k: int,
    record_property: pytest.RecordProperty,
) -> None:
    """The one binary for all rows, aligned or not, loads 16 bytes at a time and never spills."""
    found = report(dtype, capability, k)
    for name, value in found.items():
        record_property(name, value)
    assert found["stack"] == found["spills"] == 0, found
    assert found["registers"] <= 128, found  # four programs of 128 threads on a multiprocessor
    # Each of 128 threads owns 16 columns, and rows off 16 bytes load each vector's neighbour too.
    assert found["wide_loads"] == 2 * (4 if dtype == "fp32" else 2), found
    assert found["wide_loads_sass"] == found["wide_loads"] + found["wide_workspace_loads"], found
    assert found["element_loads"] == 16, found  # under a mask, at the ragged edges of a row
    assert found["atomics"] == 1, found
    assert found["barrier_after_stores"], found


if __name__ == "__main__":
    serve(compile_kernel)
