"""Triton kernels compiled without a device."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


POINTERS = {
    "moments": "*fp32", "lists": "*i64", "arrived": "*i32", "max_out": "*fp32", "lse_out": "*fp32",
    "entropy_out": "*fp32", "values_out": "*fp32", "ids_out": "*i64", "valid_out": "*i1",
}  # fmt: skip


INTEGERS = ("row_stride", "vocab_size", "k", "tiles", "tiles_per_split", "splits")


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
