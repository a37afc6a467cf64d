"""Kernels follow the device of their tensors and its stream, on two devices that are not there."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from support.emulated_cuda import CSRC, needs_nvcc

TORCH = Path(torch.__file__).parent
SOURCE = CSRC.parent / "tests" / "cpp" / "two_devices.cpp"
STREAMS = """
#include <cstdint>
extern "C" int32_t aoti_torch_get_current_cuda_stream(int32_t device, void** stream) {
  *stream = reinterpret_cast<void*>(static_cast<intptr_t>(0x1000 + device));
  return 0;
}
"""

pytestmark = [needs_nvcc, pytest.mark.slow]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The object file of the bindings, and a library that has torch's name and its streams."""
    folder = tmp_path_factory.mktemp("two_devices")
    (folder / "streams.cpp").write_text(STREAMS)
    library = folder / "libtorch_cuda.so"
    subprocess.run(
        ["g++", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library,
         folder / "streams.cpp"], check=True)  # fmt: skip
    return folder


def run(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    program = folder / "two_devices"
    subprocess.run(
        ["g++", "-std=c++20", "-O0", "-w", "-DTORCH_TARGET_VERSION=0x020a000000000000", *flags,
         f"-I{CSRC}", f"-I{TORCH / 'include'}", f"-I{sysconfig.get_paths()['include']}", SOURCE,
         "-o", program, f"-L{folder}", f"-L{TORCH / 'lib'}", "-Wl,--no-as-needed", "-ltorch_cuda",
         "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{folder}:{TORCH / 'lib'}"], check=True)  # fmt: skip
    return subprocess.run([program], capture_output=True, text=True, check=False)


def test_each_operator_runs_where_its_tensors_are(compiled: Path) -> None:
    done = run(compiled)
    assert (done.returncode, done.stdout) == (0, "0 failed\n"), done.stderr


def test_without_guards_that_would_be_seen(compiled: Path) -> None:
    done = run(compiled, "-DWITHOUT_GUARDS")
    assert done.returncode == 1
    for kernel in ("rows", "kv_append_", "step_update_"):
        assert f"{kernel} is launched there" in done.stdout
