"""The CUDA kernels of csrc/cuda run as PTX, launched as their host code in C++ launches them."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from support.ptx.machine import launch
from support.ptx.memory import Buffer, Memory
from support.ptx.parse import parse
from support.ptx.program import Program
from torch import Tensor

from steer_kernels import StepState

CSRC = Path(__file__).parents[2] / "csrc"
THREADS, UNITS_PER_BLOCK = 128, 512  # kKvThreads, kKvUnitsPerBlock
_UNITS = {16: "I5uint4", 4: "IjE", 2: "ItE", 1: "IhE"}  # mangled template arguments

_STRIDES = (("source_batch", "cache_row"), ("source_head", "cache_head"),
            ("source_token", "cache_token"))  # fmt: skip

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")


@functools.cache
def ptx_of(source: str, capability: int) -> str:
    """What nvcc makes of a file of csrc/cuda."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.ptx"
        command = ["nvcc", "-std=c++17", "-O3", "-ptx", f"-arch=sm_{capability}", f"-I{CSRC}"]
        made = subprocess.run([*command, "-o", out, CSRC / "cuda" / source], capture_output=True,
                              text=True, check=False)  # fmt: skip
        assert made.returncode == 0, made.stderr
        return out.read_text()


@functools.cache
def program(source: str, entry: str, capability: int) -> Program:
    return Program(parse(ptx_of(source, capability), entry))


class KvSide(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in (
        "source", "cache", "source_batch", "source_head", "source_token", "cache_row",
        "cache_head", "cache_token", "token_bytes")]  # fmt: skip


class KvAppendParams(ctypes.Structure):
    """As csrc/core/kv_append_params.h has it."""

    _fields_ = [("sides", KvSide * 2)] + [(name, ctypes.c_int64) for name in (
        "batch", "heads", "tokens", "cache_rows", "capacity", "rows", "starts", "counts",
        "rows_stride", "starts_stride", "counts_stride")]  # fmt: skip


class StepUpdateParams(ctypes.Structure):
    """As csrc/core/step_update_params.h has it."""

    _fields_ = [(name, ctypes.c_int64) for name in (
        "transcript", "transcript_stride", "capacity", "length", "step_start", "score_sum",
        "score_count", "flag", "limit", "token", "score", "token_class", "active", "rows", "vocab",
        "max_step")]  # fmt: skip


class Tensors:
    """Memory with the storages of tensors."""

    def __init__(self, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        self.buffers: dict[int, Buffer] = {}
        for given, readonly in ((outputs, False), (inputs, True)):
            for name, tensor in given.items():
                storage = tensor.untyped_storage()
                raw = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
                self.buffers.setdefault(storage.data_ptr(), Buffer(raw, name, readonly))
        self.memory = Memory(self.buffers.values())

    def address(self, tensor: Tensor) -> int:
        base = self.buffers[tensor.untyped_storage().data_ptr()].address
        return base + tensor.storage_offset() * tensor.element_size()


def _step(tensor: Tensor, dim: int) -> int:
    return tensor.stride(dim) * tensor.element_size() if tensor.shape[dim] > 1 else 0


def kv_append(
    k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, rows: Tensor, starts: Tensor,
    counts: Tensor, capability: int = 90,
) -> int:  # fmt: skip
    """`kv_append_` on the emulated GPU; returns the bytes that a thread moves at a time."""
    there = Tensors({"k": k, "v": v, "rows": rows, "starts": starts, "counts": counts},
                    {"k_cache": k_cache, "v_cache": v_cache})  # fmt: skip
    params = KvAppendParams()
    bits = 0
    for side, cache, source in zip(params.sides, (k_cache, v_cache), (k, v), strict=True):
        side.source, side.cache = there.address(source), there.address(cache)
        side.source_batch, side.source_head, side.source_token = (
            _step(source, d) for d in range(3)
        )
        side.cache_row, side.cache_head, side.cache_token = (_step(cache, d) for d in range(3))
        side.token_bytes = cache.shape[3] * cache.element_size()
        for name, _ in KvSide._fields_[:-1]:
            bits |= getattr(side, name)
    params.batch, params.heads, params.tokens = k.shape[:3]
    params.cache_rows, params.capacity = k_cache.shape[0], k_cache.shape[2]
    for name, tensor in (("rows", rows), ("starts", starts), ("counts", counts)):
        setattr(params, name, there.address(tensor))
        setattr(params, f"{name}_stride", tensor.stride(0) if params.batch > 1 else 0)
    unit = next(size for size in _UNITS if bits % size == 0)
    units = [-(-side.token_bytes // unit) for side in params.sides]
    chunks = -(-params.tokens * max(units) // UNITS_PER_BLOCK)
    launch(program("kv_append.cu", _UNITS[unit], capability),
           2 * params.batch * params.heads * chunks, [bytes(params), chunks, *units],
           there.memory)  # fmt: skip
    there.memory.give_back()
    return unit


def step_update(
    state: StepState, token: Tensor, score: Tensor, token_class: Tensor,
    active: Tensor | None = None, max_step: int = 512, capability: int = 90,
) -> None:  # fmt: skip
    """`step_update_` on the emulated GPU."""
    inputs = {"token": token, "score": score, "token_class": token_class, "limit": state.limit}
    if active is not None:
        inputs["active"] = active
    outputs = {n: t for n, t in zip(StepState._fields, state, strict=True) if n != "limit"}
    there = Tensors(inputs, outputs)
    params = StepUpdateParams(rows=len(token), vocab=len(token_class), max_step=max_step,
                              capacity=state.transcript.shape[1],
                              transcript_stride=state.transcript.stride(0))  # fmt: skip
    for name, tensor in {**inputs, **outputs}.items():
        setattr(params, name, there.address(tensor))
    launch(program("step_update.cu", "step_update_kernel", capability),
           -(-len(token) // THREADS), [bytes(params)], there.memory)  # fmt: skip
    there.memory.give_back()
