"""A GPU that is none: launches of Triton kernels run as PTX in the interpreter of support.ptx.

Inside `Device` the package's own host code launches, so what is tested is what a launch passes, and
the code that the compiler makes of it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from support.ahead_of_time import compiler
from support.ptx import compiled
from support.ptx.machine import launch
from support.ptx.memory import Buffer, Memory
from support.ptx.parse import parse
from support.ptx.program import Program
from torch import Tensor

from steer_kernels.triton.heuristics import RowSplit

INPUTS = {
    "logits", "small", "uniforms", "drafts", "x", "residual", "weight", "gate", "up", "q", "k", "v",
    "cos", "sin", "q_weight", "k_weight", "rows", "starts", "counts",
}  # no kernel writes them  # fmt: skip
_OPTIONS = ("num_warps", "enable_fp_fusion", "maxnreg")
_TYPES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64",
    torch.int64: "i64", torch.int32: "i32", torch.bool: "i1",
}  # fmt: skip
Compile = Callable[..., dict[str, Any]]


class Programs:
    """Kernels compiled, parsed and made ready, each once."""

    def __init__(self, compile_: Compile) -> None:
        self.compile = compile_
        self.ready: dict[str, tuple[Program, int]] = {}
        self.by_text: dict[str, Program] = {}

    def get(self, *how: Any) -> tuple[Program, int]:
        """The program of arguments of `compiled.compile_kernel`, and its shared memory."""
        key = json.dumps(how)
        if key not in self.ready:
            found = self.compile(*how)
            if found["ptx"] not in self.by_text:  # other arguments, the same code
                self.by_text[found["ptx"]] = Program(parse(found["ptx"]))
            self.ready[key] = self.by_text[found["ptx"]], found["shared"]
        return self.ready[key]


@contextmanager
def programs() -> Iterator[Programs]:
    with compiler(str(Path(compiled.__file__))) as compile_:
        yield Programs(compile_)


def kernels() -> dict[str, Any]:
    """All Triton kernels of the package, by name."""
    found = {}
    package = importlib.import_module("steer_kernels.triton")
    for info in pkgutil.iter_modules(package.__path__, "steer_kernels.triton."):
        for name, value in vars(importlib.import_module(info.name)).items():
            if name.endswith("_kernel") and hasattr(value, "fn"):
                found[name] = value
    return found


@dataclass
class Launch:
    """A launch that was made, to be made again with another kernel in its place."""

    name: str
    how: tuple  # it was compiled: arguments of `compiled.compile_kernel`
    program: Program
    grid: int
    arguments: list[Any]
    shared: int
    seed: int
    before: list[Buffer]
    after: list[np.ndarray]

    def again(self, program: Program) -> bool:
        """Whether it leaves the same behind; raises what is a fault."""
        memory = Memory([Buffer(b.bytes.copy(), b.name, b.readonly, b.known.copy())
                         for b in self.before])  # fmt: skip
        launch(program, self.grid, self.arguments, memory, self.shared, self.seed)
        memory.give_back()
        return all(np.array_equal(b.bytes, then)
                   for b, then in zip(memory.buffers, self.after, strict=True))  # fmt: skip


class Device:
    """Where launches go.

    Args:
        capability: of the GPU that is compiled for.
        splits: programs that share a row, as far as it has tiles.
        seed: decides the turns that blocks take.
    """

    def __init__(
        self, made: Programs, capability: int = 90, splits: int = 1, seed: int = 0
    ) -> None:
        self.made, self.capability, self.splits, self.seed = made, capability, splits, seed
        self.launched: list[Launch] = []
        self.fresh: dict[int, tuple[Tensor, np.ndarray]] = {}  # storages, and bytes written

    @contextmanager
    def on(self) -> Iterator[Device]:
        """Let kernels launch here."""
        empty = torch.empty

        def noted(*args: Any, **kwargs: Any) -> Tensor:
            tensor = empty(*args, **kwargs)
            if tensor.numel():
                known = np.zeros(tensor.untyped_storage().nbytes(), bool)
                self.fresh[tensor.untyped_storage().data_ptr()] = tensor, known
            return tensor

        def plan(logits: Tensor, vocab_size: int) -> RowSplit:
            tiles = -(-vocab_size // 2048)
            each = -(-tiles // min(self.splits, tiles))
            return RowSplit(tiles, each, -(-tiles // each))

        empties = mock.patch.object(torch, "empty", noted)
        with empties, _everywhere("plan", plan), _all_kernels(self):
            yield self

    def run(self, name: str, kernel: Any, grid: int, args: tuple, kwargs: dict[str, Any]) -> None:
        """Launch one kernel and wait for it."""
        options = {k: kwargs.pop(k) for k in _OPTIONS if k in kwargs}
        bound = inspect.signature(kernel.fn).bind(*args, **kwargs).arguments
        constants = {k: v for k, v in bound.items() if k in kwargs}
        given = {k: v for k, v in bound.items() if k not in constants}
        types = {k: _type(v) for k, v in given.items()}
        aligned = [k for k, v in given.items() if isinstance(v, Tensor) and _offset(v) % 16 == 0]
        how = kernel.fn.__module__, name, types, constants, aligned, options, self.capability
        program, shared = self.made.get(*how)
        assert program.kernel.threads == 32 * options["num_warps"]
        buffers: dict[int, Buffer] = {}
        for argument, value in given.items():
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                _, known = self.fresh.get(storage.data_ptr(), (None, None))
                raw = torch.empty_like(value, dtype=torch.uint8).set_(storage).numpy()
                buffers.setdefault(storage.data_ptr(), Buffer(raw, argument, argument in INPUTS,
                                                              known))  # fmt: skip
        before = [Buffer(b.bytes.copy(), b.name, b.readonly, b.known.copy())
                  for b in buffers.values()]  # fmt: skip
        memory = Memory(buffers.values())
        passed = [buffers[v.untyped_storage().data_ptr()].address + _offset(v)
                  if isinstance(v, Tensor) else v for v in given.values()]  # fmt: skip
        passed += [0] * (len(program.kernel.parameters) - len(passed))  # Triton's own scratch
        launch(program, grid, passed, memory, shared, self.seed)
        memory.give_back()
        after = [b.bytes.copy() for b in buffers.values()]
        self.launched.append(
            Launch(name, how, program, grid, passed, shared, self.seed, before, after)
        )

    def written(self, tensor: Tensor) -> bool:
        """Whether all of a tensor has been written; that of what a kernel leaves behind."""
        _, known = self.fresh[tensor.untyped_storage().data_ptr()]
        return bool(known.all())


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"*{_TYPES[value.dtype]}"
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _offset(tensor: Tensor) -> int:
    """Bytes from the start of its storage, which is well aligned."""
    return tensor.storage_offset() * tensor.element_size()


class _Launcher:
    """In the place of a kernel: `launcher[grid](...)`."""

    def __init__(self, device: Device, name: str, kernel: Any) -> None:
        self.device, self.name, self.kernel = device, name, kernel

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        return lambda *args, **kwargs: self.device.run(
            self.name, self.kernel, grid[0], args, kwargs
        )


@contextmanager
def _everywhere(name: str, value: Any) -> Iterator[None]:
    """Give modules of the package something else under a name that they have."""
    package = importlib.import_module("steer_kernels.triton")
    with ExitStack() as stack:
        for info in pkgutil.iter_modules(package.__path__, "steer_kernels.triton."):
            module = importlib.import_module(info.name)
            if name in vars(module):
                stack.enter_context(mock.patch.object(module, name, value))
        yield


@contextmanager
def _all_kernels(device: Device) -> Iterator[None]:
    with ExitStack() as stack:
        for name, kernel in kernels().items():
            stack.enter_context(_everywhere(name, _Launcher(device, name, kernel)))
        yield
