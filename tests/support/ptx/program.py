"""A kernel made ready to run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from support.ptx.access import access_of
from support.ptx.lower import Lowering
from support.ptx.operands import Lowered
from support.ptx.parse import Basic, Kernel, bytes_of

_REGISTER = re.compile(r"%[\w.]+")
_SETS_NOTHING = ("st", "red", "bra", "bar", "barrier", "ret", "exit", "fence", "membar")


class Program:
    """A kernel made ready to run; every instruction has a meaning, or this raises a fault."""

    def __init__(self, kernel: Kernel, like: Program | None = None) -> None:
        self.kernel = kernel
        self.places = {name: i for i, name in enumerate(kernel.registers)}
        self.local = like.local if like else _local_registers(kernel)
        self.unit = like.unit if like else _smallest_shared_access(kernel)
        self.unset = (
            like.unset
            if like
            else [np.full(kernel.threads, _poison(kind)) for kind in kernel.registers.values()]
        )
        self.functions: list[list[Callable[..., Any] | Lowered | None]] = []
        for i, block in enumerate(kernel.blocks):
            if like and like.kernel.blocks[i] is block:
                self.functions.append(like.functions[i])
            else:
                self.functions.append([self._lower(i, block, False), None])

    def _lower(self, number: int, block: Basic, partly: bool) -> Lowered:
        lowering = Lowering(self.kernel, self.places, self.local[number], partly)
        return lowering.block(block.code)

    def function(self, block: int, partly: bool) -> Callable[..., Any]:
        found = self.functions[block][partly]
        if found is None:  # few blocks are ever run by a part of the threads
            found = self._lower(block, self.kernel.blocks[block], partly)
        if isinstance(found, Lowered):
            found = self.functions[block][partly] = found.compiled()
        return found


def _smallest_shared_access(kernel: Kernel) -> int:
    accesses = [access_of(code) for *_, code in kernel.instructions]
    return min((a.size for a in accesses if a and a.space == "shared"), default=4)


def _poison(kind: str) -> Any:
    """What a register holds that was never set."""
    if kind == "pred":
        return np.False_
    return np.frombuffer(b"\xcd" * bytes_of(kind), f"u{bytes_of(kind)}")[0]


def _local_registers(kernel: Kernel) -> list[set[str]]:
    """Of each basic block the registers that it sets before it reads them, and no other uses."""
    users: dict[str, set[int]] = {}
    read_first: set[str] = set()
    for number, block in enumerate(kernel.blocks):
        for code in block.code:
            sets = code.guard is None and code.op[0] not in _SETS_NOTHING
            reads = " ".join(code.operands[1:]) if sets else code.text
            read_first |= set(_REGISTER.findall(reads)) - users.keys()
            for name in _REGISTER.findall(code.text):
                users.setdefault(name, set()).add(number)
    local: list[set[str]] = [set() for _ in kernel.blocks]
    for name in users.keys() & kernel.registers.keys():
        if len(users[name]) == 1 and name not in read_first:
            local[next(iter(users[name]))].add(name)
    return local
