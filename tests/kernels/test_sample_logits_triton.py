"""What only the Triton kernel of sample_logits has: the split of a row, and its compiled code.

The distribution is tested with the other backends in test_sample_logits.py. As in
test_logit_stats_triton.py, this file run as a script compiles the kernel without a GPU.
"""

from __future__ import annotations

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

from steer_kernels import reference
from steer_kernels.ops._sampling import Cuts
from steer_kernels.triton import sample_logits as module
from steer_kernels.triton import select
from steer_kernels.triton.heuristics import (
    LAUNCH,
    MAX_LENGTH,
    NUCLEUS,
    TILE,
    RowSplit,
    list_size,
)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.6])
def test_split_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    columns = 4 * TILE + 1
    logits = torch.randn(1, columns, device=DEVICE) * 4
    logits[0, :TILE] = -torch.inf  # a tile without mass
    for value in (0.0, 0.3, 0.999999):
        uniform = torch.tensor([value], device=DEVICE)
        results = []
        for tiles_per_split in (1, 2, 5):
            cut = RowSplit(5, tiles_per_split, -(-5 // tiles_per_split))
            monkeypatch.setattr(module, "plan", lambda *_, cut=cut: cut)
            cuts = Cuts(temperature, 0, 1.0, 0.0)
            results.append(module.sample_logits_triton(logits, uniform, cuts, 8, columns))
        assert results[0][6].item() >= TILE
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# ---- the cuts: by the list, or by the second launch -------------------------------------------


def sample(logits: torch.Tensor, uniform: torch.Tensor, cuts: tuple, k: int = 4) -> tuple:
    return module.sample_logits_triton(logits, uniform, Cuts(*cuts), k, logits.shape[1])


def launches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Tokens as the first launch leaves them, call by call: -1 where the second one is to draw."""
    seen: list[list[int]] = []
    kernel = select.select_kernel

    class Watched:
        def __getitem__(self, grid: tuple):
            def launch(*args: object, **kwargs: object) -> None:
                seen.append(args[-2].tolist())  # type: ignore[attr-defined]
                kernel[grid](*args, **kwargs)

            return launch

    monkeypatch.setattr(select, "select_kernel", Watched())
    return seen


PEAKED = (0.5, 0, 0.9, 0.0)
COVERED = [
    ((0.8, 20, 1.0, 0.0), True),
    ((1.0, 63, 0.9, 0.0), True),  # the longest list
    ((1.0, 0, 1.0, 0.1), True),
    (PEAKED, True),
    ((1.0, 64, 1.0, 0.0), False),  # longer than a list can be
    ((1.0, 64, 1.0, 0.2), True),  # but min_p keeps fewer
    ((1.0, 400, 0.99, 0.0), False),
    ((4.0, 0, 0.95, 0.0), False),
    ((4.0, 0, 0.95, 1e-3), False),
    ((9.0, 0, 1.0, 0.05), False),
]


def _of_list() -> list:
    """All cuts in float32, where the list's verdict is known; in CI every other in 16 bits too."""
    cases = []
    for i, (cuts, decided) in enumerate(COVERED):
        for j, dtype in enumerate((torch.float32, torch.bfloat16, torch.float16)):
            marks = pytest.mark.exhaustive if j and i % 4 != 2 * j - 2 else ()
            cases.append(pytest.param(cuts, decided, dtype, marks=marks, id=f"{cuts}-{dtype}"))
    return cases


@pytest.mark.parametrize(("cuts", "decided", "dtype"), _of_list())
def test_the_list_draws_what_it_covers(
    monkeypatch: pytest.MonkeyPatch, cuts: tuple, decided: bool, dtype: torch.dtype
) -> None:
    seen = launches(monkeypatch)
    generator = torch.Generator().manual_seed(5)
    logits = (torch.randn(2, 2 * TILE + 9, generator=generator) * 4).to(DEVICE, dtype)
    uniform = torch.tensor([0.2, 0.7], dtype=torch.float64, device=DEVICE)
    out = sample(logits, uniform, cuts)
    assert len(seen) == 1
    if dtype == torch.float32:  # in 16 bits the k-th may be tied with what lies beyond the list
        assert (min(seen[0]) >= 0) == decided
    truth = reference.sample_logits(logits, uniform, *cuts, k=4)
    assert torch.equal(out[6], truth[6])
    torch.testing.assert_close(out[7], truth[7], atol=2e-6, rtol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cuts",
    [
        (2.0, 5, 0.6, 0.0),
        (2.0, 20, 1.0, 0.0),
        (2.0, 100, 0.6, 0.0),
        (2.0, 0, 0.3, 0.0),
        *(
            pytest.param((2.0, top_k, top_p, 0.0), marks=pytest.mark.exhaustive)
            for top_k, top_p in ((5, 1.0), (20, 0.6), (100, 1.0))
        ),
    ],
    ids=str,
)
def test_ties_across_the_end_of_the_list(cuts: tuple) -> None:
    """All that tie with the k-th stay; the list shows that there are more, not how many."""
    row = torch.arange(300, dtype=torch.float32) % 7  # 42 or 43 of each value
    uniform = (torch.arange(6, dtype=torch.float64) + 0.5) / 6
    rows = row.expand(6, -1).to(DEVICE)
    truth = reference.sample_logits(rows, uniform.to(DEVICE), *cuts, k=4)
    out = sample(rows, uniform.to(DEVICE), cuts)
    assert torch.equal(out[6], truth[6])
    torch.testing.assert_close(out[7], truth[7], atol=2e-6, rtol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cuts", "decided"),
    [
        ((1.0, 0, 0.9, 0.0), True),
        ((0.7, 90, 0.8, 0.0), False),  # longer than a list can be
        ((3.0, 200, 1.0, 0.1), True),  # but min_p keeps one alone
    ],
    ids=str,
)
def test_second_launch_on_odd_rows_and_special_values(
    monkeypatch: pytest.MonkeyPatch, cuts: tuple, decided: bool
) -> None:
    """Negative, zero and infinite logits, a padded head, odd strides; a decided row between."""
    seen = launches(monkeypatch)
    vocab, columns = TILE + 50, TILE + 53
    generator = torch.Generator().manual_seed(2)
    flat = torch.randn(5, columns, generator=generator)
    flat[0] -= 50.0
    flat[1, 7] = 40.0
    flat[2, ::3] = -torch.inf
    flat[3] = flat[3].round()  # zeros of both signs
    flat[4, ::9] = torch.inf
    flat[:, vocab:] = 99.0
    logits = flat.to(DEVICE)
    uniform = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64, device=DEVICE)
    out = module.sample_logits_triton(logits, uniform, Cuts(*cuts), 4, vocab)
    truth = reference.sample_logits(logits, uniform, *cuts, k=4, vocab_size=vocab)
    assert torch.equal(out[6], truth[6])
    torch.testing.assert_close(out[7], truth[7], atol=2e-6, rtol=2e-6)
    (tokens,) = seen
    assert tokens[0] == -1
    assert tokens[1] == (7 if decided else -1)


# ---- compiled code ---------------------------------------------------------------------------

CUT_SCALARS = ("inverse_high", "inverse_low", "top_p_high", "top_p_low", "least_high", "least_low")
MODES = ("plain", "greedy", "cut", "cut of 64", "select", "select, bound")


def _source(mode: str, dtype: str):
    """The kernel of a mode, as Triton compiles it ahead of time."""
    from triton.compiler import ASTSource

    selects = mode.startswith("select")
    kernel = select.select_kernel if selects else module.sample_logits_kernel
    size = {"cut": list_size(NUCLEUS), "cut of 64": list_size(MAX_LENGTH)}.get(mode, list_size(20))
    constants = {"TILE": TILE, "VEC": 4 if dtype == "fp32" else 8}
    if selects:
        constants |= {
            "BITS": {"fp32": 32, "bf16": 16, "fp16": 19}[dtype],
            "WITH_BOUND": "," in mode,
        }
    else:
        constants |= {"K": size, "GREEDY": mode == "greedy", "CUT": mode.startswith("cut")}
    pointers = {"uniforms": "*fp64", "masses": "*fp32", **POINTERS}
    pointers |= {"token_out": "*i64", "logprob_out": "*fp32", "sums": "*fp32", "state": "*fp64"}
    integers = (*INTEGERS, "length", "top_k", "rows", "steps")
    types = {"logits": f"*{dtype}", **dict.fromkeys(integers, "i32")}
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
                quick = (capability, dtype) == (90, "bf16") and mode in ("plain", "cut", "select")
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
    assert found["registers"] <= 128, found  # four programs of 128 threads on a multiprocessor
    # Of a tile: the sums', and the draw's; to select, the edge's too where it is asked for.
    tiles = {"plain": 2, "select": 2, "select, bound": 3}.get(mode, 1)
    assert found["wide_loads"] == 2 * tiles * (4 if dtype == "fp32" else 2), found
    # Arrivals; to select, numbers too, and waits where a Triton makes them no loads.
    assert found["atomics"] in ((2, 3, 4) if mode.startswith("select") else (1,)), found


if __name__ == "__main__":
    serve(compile_kernel)
