"""What nvcc makes of csrc/cuda: registers, spills and wide accesses, read off without a GPU."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = sorted((CSRC / "cuda").glob("*.cu"))
ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]
MAX_REGISTERS = 64
ROWS_REGISTERS = 96  # five blocks of 128 threads on a multiprocessor: kRowBlocksPerSm

Kernels = dict[str, list[str]]  # memory instructions, by mangled name

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH"),
]


def cuobjdump() -> str:
    """The disassembler of the toolkit, or the one that Triton carries."""
    found = shutil.which("cuobjdump")
    triton = importlib.util.find_spec("triton")
    if found is None and triton is not None and triton.origin is not None:
        carried = Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump"
        found = str(carried) if carried.exists() else None
    if found is None:
        pytest.skip("there is no cuobjdump on PATH, and no Triton that carries one")
    return found


def compile_cubin(source: Path, architecture: str, output: Path) -> str:
    """Compiles one source; returns what ptxas says about it."""
    command = ["nvcc", "-std=c++17", "-O3", "-Xptxas", "-v", "-cubin", f"-arch={architecture}"]
    command += [f"-I{CSRC}", "-o", str(output), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stderr


def kernels_in_sass(cubin: Path) -> Kernels:
    """Mangled name of each kernel, and its memory instructions."""
    command = [cuobjdump(), "-sass", str(cubin)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    parts = re.split(r"Function : (\S+)", listing)[1:]
    return {
        name: re.findall(r"\b(?:LD|ST)[A-Z]*(?:\.[A-Z0-9]+)+", body)
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def test_there_are_sources_to_compile() -> None:
    assert {"kv_append.cu", "step_update.cu"} <= {source.name for source in SOURCES}


def kv_append_moves_sixteen_bytes_at_a_time(kernels: Kernels) -> None:
    """In the kernel for aligned tensors every whole unit is one 128-bit access, four in flight."""
    assert len(kernels) == 4
    # Its Unit, uint4, is the one that is no builtin type with a letter of its own.
    (wide,) = (ops for name, ops in kernels.items() if "uint4" in name or "I5" in name)
    assert sum(op.startswith("LDG.E.128") for op in wide) == 4, wide
    assert sum(op.startswith("STG.E.128") for op in wide) == 4, wide


def rows_are_read_sixteen_bytes_at_a_time(kernels: Kernels) -> None:
    """Four loads of a thread in flight while four are worked on: enough of them on an SM."""
    assert len(kernels) == 6
    for ops in kernels.values():
        assert sum(op.startswith("LDG.E.128.CONSTANT") for op in ops) >= 8, ops
    text = (CSRC / "cuda" / "rows_params.h").read_text()
    threads, blocks = (int(re.search(rf"{name} = (\d+)", text)[1])  # type: ignore[index]
                       for name in ("kRowThreads", "kRowBlocksPerSm"))  # fmt: skip
    assert 65536 // (threads * blocks) >= ROWS_REGISTERS  # so that as many blocks are there
    assert threads * blocks * 4 * 16 >= 22_000  # bytes: 4.8 TB/s over 132 SMs, for 600 ns


def step_update_is_one_kernel(kernels: Kernels) -> None:
    assert len(kernels) == 1


ACCESSES = {
    "kv_append": kv_append_moves_sixteen_bytes_at_a_time,
    "rows": rows_are_read_sixteen_bytes_at_a_time,
    "step_update": step_update_is_one_kernel,
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_spills_few_registers_and_wide_accesses(
    source: Path, architecture: str, tmp_path: Path
) -> None:
    cubin = tmp_path / "out.cubin"
    said = compile_cubin(source, architecture, cubin)
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", said)]
    frames = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said
    )
    kernels = len(re.findall(r"Compiling entry function", said))
    assert len(registers) == kernels
    assert (kernels > 0) == ("<<<" in source.read_text()) == (source.stem in ACCESSES)
    most = ROWS_REGISTERS if source.stem == "rows" else MAX_REGISTERS
    assert all(n <= most for n in registers), said
    assert all(frame == ("0", "0", "0") for frame in frames), said
    if kernels:
        accesses = kernels_in_sass(cubin)
        ACCESSES[source.stem](accesses)
        for ops in accesses.values():  # global memory only: no local arrays, no generic addresses
            assert not [op for op in ops if op.startswith(("LDL", "STL", "LD.", "ST."))], ops
