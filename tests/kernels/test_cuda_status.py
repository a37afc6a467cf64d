"""What is said where a card, a driver and a build do not go together: compiled, and run here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from support.emulated_cuda import CSRC, needs_nvcc

pytestmark = [
    needs_nvcc,
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="its sentences are of a machine without"),
]

SOURCE = """
#include <cstdio>
#include "cuda/status.h"
int main() {
  std::printf("%d\\n", steer::fault_of(cudaSuccess) == nullptr);
  for (cudaError_t status : {cudaErrorNoKernelImageForDevice, cudaErrorInvalidDeviceFunction,
                             cudaErrorInsufficientDriver, cudaErrorInvalidValue})
    std::printf("%s\\n", steer::fault_of(status));
}
"""


def test_one_sentence_each_with_the_way_out(tmp_path: Path) -> None:
    program, source = tmp_path / "said", tmp_path / "said.cu"
    source.write_text(SOURCE)
    files = [source, CSRC / "cuda" / "status.cu", CSRC / "cuda" / "build_info.cu"]
    command = ["nvcc", "-std=c++17", "-arch=sm_90", f"-I{CSRC}", "-o", program, *files]
    subprocess.run(command, check=True)
    said = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    fine, card, function, driver, other = said.splitlines()
    assert fine == "1"
    assert card == function
    assert "this build has architectures 900; build it with TORCH_CUDA_ARCH_LIST" in card
    assert "there is no driver for a card on this machine: install one for CUDA" in driver
    assert other == "invalid argument"
