"""What only the Triton kernels of accept_drafts have: the split of a row, and their compiled code.

The verdicts are tested with the other backends in test_accept_drafts.py. As in
test_sample_logits_triton.py, this file run as a script compiles the kernels without a GPU.
"""

from __future__ import annotations

import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.ahead_of_time import compiler, serve

pytest.importorskip("triton")

from support.compiled import DEVICE, INTEGERS, POINTERS, _output
from support.selection import one_of_three

from steer_kernels import Packed, PackedDraft, reference
from steer_kernels.ops._sampling import Cuts
from steer_kernels.triton import accept_drafts as module
from steer_kernels.triton import bounds, sample_logits
from steer_kernels.triton.heuristics import LAUNCH, NUCLEUS, TILE, RowSplit, list_size


def test_split_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused place: its token lies in the third tile, behind one in which p has no mass."""
    columns = 3 * TILE + 1
    generator = torch.Generator().manual_seed(0)
    large = (torch.randn(1, columns, generator=generator) * 3).to(DEVICE)
    small = (torch.randn(1, columns, generator=generator) * 3).to(DEVICE, torch.bfloat16)
    large[0, TILE : 2 * TILE] = -torch.inf
    small[0, TILE] = 40.0
    large[0, 2 * TILE + 5] = 15.0
    drafts = torch.tensor([TILE], device=DEVICE)
    uniform = torch.tensor([0.9], device=DEVICE, dtype=torch.float64)
    results = []
    for tiles_per_split in (1, 2, 4):
        cut = RowSplit(4, tiles_per_split, -(-4 // tiles_per_split))
        monkeypatch.setattr(sample_logits, "plan", lambda *_, cut=cut: cut)
        cuts = Cuts(1.0, 0, 1.0, 0.0)
        results.append(module.accept_drafts_triton(large, drafts, uniform, small, cuts, 4, columns))
    truth = reference.accept_drafts(large, drafts, uniform, small, k=4)
    assert truth[0, Packed.TOKEN] >= 2 * TILE
    assert results[0][0, PackedDraft.ACCEPTED] == 0
    torch.testing.assert_close(results[0], truth, atol=4e-6, rtol=4e-6)
    for other in results[1:]:
        assert torch.equal(other, results[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "cuts",
    [
        (0.8, 20, 1.0, 0.0),
        (1.0, 0, 0.9, 0.0),
        (1.0, 64, 1.0, 0.0),  # longer than a list can be
        (4.0, 0, 0.95, 1e-3),  # so is this nucleus
        (2.0, 100, 0.6, 0.0),  # and this one, of ties
    ],
    ids=str,
)
def test_bounds_keep_what_the_definition_keeps(cuts: tuple) -> None:
    vocab = TILE + 50
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, vocab + 3, generator=generator) * 3
    logits[1] = logits[1].round()
    logits[2, 3:] = -torch.inf
    logits[:, vocab:] = 99.0
    logits = logits.to(DEVICE)
    uniform = torch.full((3,), 0.5, dtype=torch.float64, device=DEVICE)
    drafts = torch.zeros(3, dtype=torch.int64, device=DEVICE)
    drawn = sample_logits.draw_rows(logits, uniform, Cuts(*cuts), 1, vocab, whole_lists=True)
    with sample_logits.device_of(logits):
        found = bounds.bounds_of(logits, drawn, drafts, Cuts(*cuts), vocab)
    x = logits[:, :vocab].double() + 0.0
    kept = reference.kept(x, *cuts) & (x > -torch.inf)
    columns = torch.arange(vocab, device=DEVICE)
    value, edge = found.value.double()[:, None], found.edge[:, None]
    d = (x - x.amax(-1, keepdim=True)) / cuts[0]
    least = math.log(cuts[3]) if cuts[3] else -math.inf
    here = ((x > value) | ((x == value) & (columns <= edge))) & (x > -torch.inf) & (d >= least)
    assert torch.equal(here, kept)
    d = d.where(kept, -torch.inf)
    torch.testing.assert_close(found.total, d.exp().sum(-1), atol=1e-6, rtol=1e-6)


# ---- compiled code ----------------------------------------------------------------------------

CUT_SCALARS = ("inverse_high", "inverse_low", "top_p_high", "top_p_low", "least_high", "least_low")
FLOATS = ("max_in", "lse_in", "entropy_in", "values_in", "logprob_in", "masses", "value_out")
FLOATS += ("max_p", "value_p", "max_q", "value_q")
DOUBLES = ("uniforms", "total_out", "draft_logprob_out", "log_p_in", "log_q_in", "packed")
DOUBLES += ("again", "again_out", "total_p", "total_q", "rests", "found")
MODES = ("bounds", "bounds cut", "bounds greedy", "verdict", "verdict alone", "redraw")


def _constants(mode: str, dtype: str) -> dict[str, object]:
    vec = 4 if dtype == "fp32" else 8
    if mode.startswith("bounds"):
        size = list_size(NUCLEUS if "cut" in mode else 20)
        return {"K": size, "GREEDY": "greedy" in mode, "CUT": "cut" in mode}
    if mode.startswith("verdict"):
        return {"K": list_size(20), "RATIO": "alone" not in mode}
    return {"TILE": TILE, "VEC": vec, "SMALL_VEC": 8}


def _source(mode: str, dtype: str):
    """The kernel of a mode, as Triton compiles it ahead of time."""
    from triton.compiler import ASTSource

    kernel = {
        "bounds": bounds.bounds_kernel,
        "verdict": module.verdict_kernel,
        "redraw": module.redraw_kernel,
    }[mode.split()[0]]
    pointers = {**POINTERS, **dict.fromkeys(FLOATS, "*fp32"), **dict.fromkeys(DOUBLES, "*fp64")}
    pointers |= dict.fromkeys(("drafts", "ids_in", "token_in"), "*i64")
    pointers |= dict.fromkeys(("edge_out", "edge_p", "edge_q"), "*i32")
    pointers |= dict.fromkeys(("valid_in", "small_valid_in"), "*i1")
    integers = (*INTEGERS, "length", "top_k", "small_stride")
    constants = _constants(mode, dtype)
    types = {"logits": f"*{dtype}", "small": "*bf16", **dict.fromkeys(integers, "i32")}
    types |= pointers | dict.fromkeys(CUT_SCALARS, "fp32") | dict.fromkeys(constants, "constexpr")
    names = kernel.arg_names
    aligned = {(names.index(n),): [["tt.divisibility", 16]] for n in pointers if n in names}
    return ASTSource(kernel, {n: types[n] for n in names}, constexprs=constants, attrs=aligned)


def compile_kernel(mode: str, dtype: str, capability: int) -> dict[str, int]:
    """Compile for a GPU that need not be there, and count what matters in the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget

    target = GPUTarget("cuda", capability, 32)
    kernel = triton.compile(_source(mode, dtype), target=target, options=LAUNCH)
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _output(tools / "cuobjdump", "-res-usage", file.name)
        sass = _output(tools / "nvdisasm", "-c", file.name)
    return {
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "stack": int(re.search(r"STACK:(\d+)", usage)[1]),
        "spills": len(re.findall(r"\b(?:STL|LDL)\b", sass)),
        "wide_loads": kernel.asm["ptx"].count("ld.global.v2.b64"),
        "atomics": kernel.asm["ptx"].count("atom."),
    }


def _gate_cases() -> list:
    cases = []
    for a, capability in enumerate((80, 90, 100)):
        for b, dtype in enumerate(("bf16", "fp16", "fp32")):
            for c, mode in enumerate(MODES):
                if dtype != "bf16" and mode != "redraw":  # what reads rows
                    continue
                quick = (capability, dtype, mode) == (90, "bf16", "redraw")
                marks = () if quick else one_of_three(a, b, c)
                cases.append(pytest.param(mode, dtype, capability, marks=marks))
    return cases


@pytest.fixture(scope="module")
def report() -> Iterator[Callable[..., dict[str, int]]]:
    """`compile_kernel` in a process of its own."""
    with compiler(__file__) as compiled:
        yield compiled


@pytest.mark.skipif(sys.platform != "linux", reason="Triton carries its CUDA tools on Linux")
@pytest.mark.parametrize(("mode", "dtype", "capability"), _gate_cases())
def test_compiled_code(
    report: Callable[..., dict[str, int]], mode: str, dtype: str, capability: int
) -> None:
    found = report(mode, dtype, capability)
    assert found["stack"] == found["spills"] == 0, found
    assert found["registers"] <= 128, found
    assert found["atomics"] == (1 if mode == "redraw" else 0), found
    if mode == "redraw":  # of both rows' tiles, twice: for the masses, and for the token
        vectors = (4 if dtype == "fp32" else 2) + 2
        assert found["wide_loads"] == 2 * 2 * vectors, found


if __name__ == "__main__":
    serve(compile_kernel)
