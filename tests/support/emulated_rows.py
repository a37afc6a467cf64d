"""`csrc/cuda/rows.cu` run as PTX, launched as its host code launches it."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from support.emulated_cuda import program
from support.ptx.machine import launch
from support.ptx.memory import Buffer, Memory
from support.ptx.program import Program
from torch import Tensor

from steer_kernels import reference
from steer_kernels.ops._sampling import Cuts, cuts_something

THREADS, WARPS, TILE_BYTES, BLOCKS_PER_SM = 128, 4, 2048, 5  # csrc/cuda/rows_params.h
NONE, GREEDY, PLAIN, CUT = range(4)  # RowToken
_NAMES = {torch.float32: "7Float32", torch.bfloat16: "8BFloat16", torch.float16: "7Float16"}


class RowsParams(ctypes.Structure):
    """As csrc/cuda/rows_params.h has it."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("logits", "row_bytes")),
        *((name, ctypes.c_int) for name in (
            "vocab", "tiles", "units", "ranges", "each", "extra", "k", "length")),
        *((name, ctypes.c_int64) for name in (
            "max_logit", "lse", "entropy", "topk_logits", "topk_ids", "valid")),
        ("mode", ctypes.c_int), ("uniform", ctypes.c_int64), ("uniform_stride", ctypes.c_int64),
        ("uniform_bytes", ctypes.c_int),
        *((name, ctypes.c_double) for name in ("inverse", "top_p", "least")),
        ("top_k", ctypes.c_int),
        *((name, ctypes.c_int64) for name in (
            "token", "logprob", "moments", "peaks", "arrived")),
    ]  # fmt: skip


def cut_list_length(k: int, top_k: int, vocab: int, size: int) -> int:
    """As csrc/cuda/rows_params.h has it; `size` is that of an element."""
    wanted = min(top_k + (13 if size == 2 else 1), 64) if 0 < top_k < 64 else 64
    return min(max(k, wanted), vocab)


@dataclass
class Rows:
    """A launch on rows of logits; the token is drawn where there are uniform numbers."""

    logits: Tensor
    k: int = 20
    vocab: int | None = None
    uniform: Tensor | None = None
    temperature: float = 1.0
    cuts: tuple[int, float, float] = (0, 1.0, 0.0)  # top_k, top_p, min_p
    multiprocessors: int = 1
    capability: int = 90
    seed: int = 0
    outputs: dict[str, Tensor] = field(default_factory=dict)
    program: Program | None = None

    def __post_init__(self) -> None:
        rows, vocab = self.logits.shape[0], self.vocab or self.logits.shape[1]
        tiles = -(-vocab // (TILE_BYTES // self.logits.element_size()))
        units = rows * tiles
        self.blocks = min(units, self.multiprocessors * BLOCKS_PER_SM)
        ranges = min(units, self.blocks * WARPS)
        top_k, top_p, min_p = self.cuts
        mode = NONE if self.uniform is None else PLAIN if self.temperature else GREEDY
        if mode == PLAIN and cuts_something(Cuts(1.0, *self.cuts), vocab):
            mode = CUT
        inverse = 1 / self.temperature if self.temperature else 1.0
        self.params = RowsParams(
            row_bytes=self.logits.stride(0) * self.logits.element_size(), vocab=vocab, tiles=tiles,
            units=units, ranges=ranges, each=units // ranges, extra=units % ranges, k=self.k,
            length=self.k,
            mode=mode, inverse=inverse, top_k=top_k, top_p=top_p,
            least=math.log(min_p) if min_p else -math.inf,
        )  # fmt: skip
        if mode == CUT:
            size = self.logits.element_size()
            self.params.length = cut_list_length(self.k, top_k, vocab, size)
        self.entry = f"{_NAMES[self.logits.dtype]}ELb{int(mode >= PLAIN and inverse != 1)}"
        shapes = dict.fromkeys(("max_logit", "lse", "entropy"), (torch.float32, (rows,)))
        shapes["topk_logits"] = torch.float32, (rows, self.k)
        shapes["topk_ids"] = torch.int64, (rows, self.k)
        shapes["valid"] = torch.bool, (rows,)
        if mode != NONE:
            shapes |= {"token": (torch.int64, (rows,)), "logprob": (torch.float32, (rows,))}
        shapes |= {"moments": (torch.float32, (units, 4)), "peaks": (torch.int32, (units, 32))}
        self.outputs = {name: torch.empty(shape, dtype=dtype)
                        for name, (dtype, shape) in shapes.items()}  # fmt: skip
        self.outputs["arrived"] = torch.zeros(rows, dtype=torch.int32)

    def memory(self) -> Memory:
        """Fresh buffers, whose addresses become the parameters."""
        given = {"logits": self.logits}
        if self.uniform is not None:
            given["uniform"] = self.uniform
        buffers = {}
        for name, tensor in {**given, **self.outputs}.items():
            raw = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy()
            known = name in given or name == "arrived"
            buffers[name] = Buffer(raw, name, name in given,
                                   None if known else np.zeros(raw.size, bool))  # fmt: skip
        memory = Memory(buffers.values())
        for name, tensor in {**given, **self.outputs}.items():
            offset = tensor.storage_offset() * tensor.element_size()
            setattr(self.params, name, buffers[name].address + offset)
        if self.uniform is not None:
            self.params.uniform_stride = self.uniform.stride(0)
            self.params.uniform_bytes = self.uniform.element_size()
        return memory

    def run(self, program_: Program | None = None) -> reference.Stats | reference.Sampled:
        """Launch; what `logit_stats` gives, or `sample_logits`."""
        memory = self.memory()
        self.program = program_ or program("rows.cu", self.entry, self.capability)
        launch(self.program, self.blocks, [bytes(self.params)], memory, seed=self.seed)
        memory.give_back()
        names = [name for name in self.outputs if name not in ("moments", "peaks", "arrived")]
        for buffer in memory.buffers:
            assert buffer.name not in names or buffer.known.all(), f"{buffer.name} is not all there"
        assert not self.outputs["arrived"].any()  # as it was found
        return tuple(self.outputs[name] for name in names)
