"""Faults planted in a kernel, one at a time: what a test of it has to notice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from support.ptx.parse import Instruction, Kernel

_OFF_BY_ONE = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt", "lo": "ls", "ls": "lo",
               "hi": "hs", "hs": "hi"}  # fmt: skip
_INTEGER = ("s16", "u16", "s32", "u32", "s64", "u64")
_LOGIC = ("and", "or", "xor", "not", "mov", "selp")
_WEAKER = (
    ("acq_rel", "relaxed"), ("acq_rel", "acquire"), ("acq_rel", "release"),
    ("acquire", "relaxed"), ("release", "relaxed"), ("gpu", "cta"), ("sys", "cta"),
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A kernel with one fault."""

    kernel: Kernel
    kind: str  # "barrier", "fence", "atomic", "cache" or "mask"
    old: Instruction
    new: str  # "" where it is left out

    def __str__(self) -> str:
        return f"{self.kind}: {self.old} -> {self.new or 'nothing'}"


def mutants(kernel: Kernel) -> Iterator[Mutant]:
    """All of them: barriers and fences left out, orders weakened, bounds moved by one."""
    guards = guarding(kernel)
    for block, place, code in kernel.instructions:
        for kind, new in _changes(code, guards):
            changed = code.with_text(new) if new else None
            yield Mutant(kernel.replaced(block, place, changed), kind, code, new)


def _changes(code: Instruction, guards: set[str]) -> Iterator[tuple[str, str]]:
    first = code.op[0]
    if first in ("bar", "barrier"):
        yield "barrier", ""
    elif first in ("fence", "membar"):
        yield "fence", ""
    elif first in ("atom", "red") or (
        first in ("ld", "st") and {"acquire", "release"} & {*code.op}
    ):
        for old, new in _WEAKER:
            if old in code.op:
                yield "atomic", re.sub(rf"\.{old}(?![\w])", f".{new}", code.text, count=1)
    elif first == "ld" and "cg" in code.op:
        yield "cache", code.text.replace(".cg", "", 1)
    elif (
        first == "setp" and code.op[1] in _OFF_BY_ONE and code.kind in _INTEGER
        and code.operands[0] in guards
    ):  # fmt: skip
        relation = code.op[1]
        yield "mask", code.text.replace(f".{relation}.", f".{_OFF_BY_ONE[relation]}.", 1)


def guarding(kernel: Kernel) -> set[str]:
    """Predicates that decide whether memory is touched, themselves or through others."""
    found = {code.guard for *_, code in kernel.instructions
             if code.guard and code.op[0] in ("ld", "st", "atom", "red")}  # fmt: skip
    while True:
        more = {operand for *_, code in kernel.instructions
                if code.op[0] in _LOGIC and code.kind == "pred" and code.operands[0] in found
                for operand in code.operands[1:] if operand[0] == "%"}  # fmt: skip
        if more <= found:
            return found
        found |= more
