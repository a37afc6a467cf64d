"""What only the Triton kernel of sample_logits has: the split of a row, and its compiled code.

The distribution is tested with the other backends in test_sample_logits.py. As in
test_logit_stats_triton.py, this file run as a script compiles the kernel without a GPU.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from test_logit_stats_triton import DEVICE, INTEGERS, POINTERS, _output

from steer_kernels.triton import sample_logits as module
from steer_kernels.triton.heuristics import LAUNCH, TILE, RowSplit, list_size


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
            results.append(module.sample_logits_triton(logits, uniform, temperature, 8, columns))
        assert results[0][6].item() >= TILE
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def compile_kernel(dtype: str, capability: int, greedy: bool) -> dict[str, int]:
    """Compile for a GPU that need not be there, and count what matters in the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {
        "TILE": TILE,
        "VEC": 4 if dtype == "fp32" else 8,
        "K": list_size(20),
        "GREEDY": greedy,
    }
    pointers = {"uniforms": "*fp64", "masses": "*fp32", **POINTERS}
    pointers |= {"token_out": "*i64", "logprob_out": "*fp32"}
    types = {"logits": f"*{dtype}", **dict.fromkeys(INTEGERS, "i32"), **pointers}
    types |= {"inverse_temperature": "fp32", **dict.fromkeys(constants, "constexpr")}
    names = module.sample_logits_kernel.arg_names
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in pointers}
    source = ASTSource(
        module.sample_logits_kernel,
        {n: types[n] for n in names},
        constexprs=constants,
        attrs=aligned,
    )
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=LAUNCH)
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
    for capability in (80, 90, 100):
        for dtype in ("bf16", "fp16", "fp32"):
            for greedy in (False, True):
                quick = (capability, dtype, greedy) == (90, "bf16", False)
                marks = () if quick else pytest.mark.slow
                cases.append(pytest.param(dtype, capability, greedy, marks=marks))
    return cases


@pytest.mark.skipif(sys.platform != "linux", reason="Triton carries its CUDA tools on Linux")
@pytest.mark.parametrize(("dtype", "capability", "greedy"), _gate_cases())
def test_compiled_code(dtype: str, capability: int, greedy: bool) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    here = Path(__file__)
    environment["PYTHONPATH"] = os.pathsep.join([str(here.parents[1]), str(here.parent)])
    result = subprocess.run(
        [sys.executable, __file__, dtype, str(capability), str(int(greedy))],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["stack"] == found["spills"] == 0, found
    # Four programs of 128 threads on a multiprocessor; three for float32 on sm_80.
    assert found["registers"] <= (168 if (dtype, capability) == ("fp32", 80) else 128), found
    reads = 1 if greedy else 2  # of a tile: the sums', and the draw's
    assert found["wide_loads"] == reads * 2 * (4 if dtype == "fp32" else 2), found
    assert found["atomics"] == 1, found


if __name__ == "__main__":
    print(json.dumps(compile_kernel(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1")))
