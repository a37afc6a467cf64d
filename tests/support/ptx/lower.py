"""Basic blocks of PTX as Python functions over the threads of a block.

A register is an array with an element for each thread. A function is made twice: for when all
threads run the block, and for when some do, whose registers alone may change. What memory and other
threads have to do with it is done by methods of the thread block (machine.py).
"""

from __future__ import annotations

import functools
import re

import numpy as np
from support.ptx import arithmetic
from support.ptx.access import Access, access_of
from support.ptx.arithmetic import TYPES, comparison, conversion
from support.ptx.faults import unknown
from support.ptx.lanes import matrix_lanes, source_lanes
from support.ptx.operands import Lowered, Operands
from support.ptx.parse import Instruction, bytes_of


@functools.lru_cache(maxsize=1000)
def _lanes(mode: str, by: str, clamp: str, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """`source_lanes` of immediates."""
    return source_lanes(mode, np.array(int(by, 0)), np.array(int(clamp, 0)), threads)


class Lowering(Operands):
    """Writes the function of one basic block."""

    def block(self, code: tuple[Instruction, ...]) -> Lowered:
        result = "None"
        for instruction in code:
            result = self.instruction(instruction) or "None"
        for register in sorted(self.changed - self.local):
            value, at = self.read(register), self.places[register]
            self.say(f"R[{at}] = np.where(M, {value}, R[{at}])" if self.partly
                     else f"R[{at}] = {value}")  # fmt: skip
        self.say(f"return {result}")
        return self.out

    def instruction(self, code: Instruction) -> str | None:
        """Write it; returns the variable that tells where threads go from here."""
        try:
            return self._instruction(code)
        except (KeyError, IndexError, ValueError) as error:
            raise unknown(str(code)) from error

    def guard_of(self, code: Instruction) -> str:
        if code.guard is None:
            return ""
        value = self.read(code.guard)
        return self.new(f"~{value}") if code.negated else value

    def mask(self, guard: str) -> str:
        """The threads that run an instruction; None for all."""
        if not self.partly:
            return guard or "None"
        return f"{guard} & M" if guard else "M"

    def _instruction(self, code: Instruction) -> str | None:
        first, guard = code.op[0], self.guard_of(code)
        if first in ("bra", "ret", "exit"):
            if set(code.op[1:]) - {"uni"}:
                raise unknown(str(code))
            return guard or None
        if first in ("bar", "barrier", "fence", "membar"):
            if guard:
                raise unknown(str(code))
            self.synchronise(code)
        elif access := access_of(code):
            self.memory(code, access, guard)
        elif first in ("shfl", "redux", "vote", "activemask"):
            self.among_lanes(code, guard)
        elif first == "mov":
            self.move(code, guard)
        elif first == "setp" and code.kind.endswith("x2"):
            self.compare_halves(code, guard)
        elif first in ("max", "min") and code.kind in ("bf16x2", "f16x2"):
            self.extreme_halves(code, guard)
        elif first in ("add", "sub", "mul", "fma") and "f16" in code.kind:
            self.sum_of_halves(code, guard)
        elif first in ("setp", "selp", "cvt", "cvta", "shl", "shr", "bfe", "bfi"):
            self.define(code.operands[0], *getattr(self, f"_{first}")(code), guard)
        else:
            self.table(code, guard)
        return None

    def table(self, code: Instruction, guard: str) -> None:
        first, mods, kind = code.op[0], code.op[1:-1], code.kind
        rule = arithmetic.TABLE.get(first)
        halves = kind in ("s16x2", "u16x2") and first in ("add", "sub", "max", "min")
        expression = rule(TYPES["u16" if halves else kind], mods) if rule else None
        if expression is None or kind in ("f16", "bf16"):
            raise unknown(str(code))
        read, result = kind, kind
        operands = [self.use(o, "b32" if halves else kind) for o in code.operands[1:]]
        if halves:
            element = "i2" if kind[0] == "s" else "u2"
            operands = [f"({o}).view('{element}')" for o in operands]
            self.define(
                code.operands[0], "b32", f"({expression.format(*operands)}).view('u4')", guard
            )
            return
        if "wide" in mods:
            result = {"16": "32", "32": "64"}[kind[1:]]
            result = kind[0] + result
            if len(operands) > 2:
                operands[2] = self.use(code.operands[3], result)
        if first in ("popc", "clz", "bfind"):
            result = "u32"
        if "ftz" in mods and read == "f32":
            operands = [f"flushed({o})" for o in operands]
            expression = f"flushed({expression})"
        self.define(code.operands[0], result, expression.format(*operands), guard)

    def _setp(self, code: Instruction) -> tuple[str, str]:
        _, relation, *mods, kind = code.op
        operands = [self.use(o, kind) for o in code.operands[1:3]]
        if kind == "bf16":
            operands = [f"of_bf16({o})" for o in operands]
        numbers = "f4" if kind in ("bf16", "f16") else TYPES[kind]
        joined = {"and": "&", "or": "|", "xor": "^"}.get(mods[0]) if mods else None
        expression = comparison(relation, numbers)
        if "|" in code.operands[0] or expression is None or len(mods) > 1 or (mods and not joined):
            raise unknown(str(code))
        found = expression.format(*operands)
        if joined:
            found = f"({found}) {joined} {self.use(code.operands[3], 'pred')}"
        elif len(code.operands) > 3:
            raise unknown(str(code))
        return "pred", found

    def compare_halves(self, code: Instruction, guard: str) -> None:
        """`setp` of two 16-bit floats in 32 bits, into two predicates."""
        numbers = {"bf16x2": "of_bf16({})", "f16x2": "{}.view('f2').astype('f4')"}[code.kind]
        expression = comparison(code.op[1], "f4")
        if expression is None or len(code.op) != 3:
            raise unknown(str(code))
        halves = [self.new(f"({self.use(o, 'b32')}).view('u2')") for o in code.operands[1:]]
        for i, register in enumerate(code.operands[0].split("|")):
            each = [numbers.format(f"{half}[{i}::2].copy()") for half in halves]
            self.define(register, "pred", expression.format(*each), guard)

    def _selp(self, code: Instruction) -> tuple[str, str]:
        a, b = (self.use(o, code.kind) for o in code.operands[1:3])
        return code.kind, f"np.where({self.use(code.operands[3], 'pred')}, {a}, {b})"

    def _cvt(self, code: Instruction) -> tuple[str, str]:
        *mods, to, source = code.op[1:]
        if mods == ["rn"] and to in ("bf16x2", "f16x2") and source == "f32":
            high, low = (self.use(o, "f32") for o in code.operands[1:])
            return "b32", f"joined({high}, {low}, {to!r})"
        expression = conversion(mods, to, source)
        if expression is None:
            raise unknown(str(code))
        return to, expression.format(f"({self.use(code.operands[1], source)})")

    def _cvta(self, code: Instruction) -> tuple[str, str]:
        """Generic addresses are those of global memory; shared memory has no others."""
        if code.op[1:] not in (("to", "global", "u64"), ("global", "u64")):
            raise unknown(str(code))
        return "u64", self.use(code.operands[1], "u64")

    def _shift(self, code: Instruction) -> tuple[str, str]:
        if len(code.op) > 2:
            raise unknown(str(code))
        x, left = self.use(code.operands[1], code.kind), code.op[0] == "shl"
        bits = 8 * bytes_of(code.kind)
        by = code.operands[2]
        if re.fullmatch(r"\d+", by) and int(by) < bits:  # nearly all of them
            by = self.use(by, code.kind)
            return code.kind, f"{x} {'<<' if left else '>>'} {by}"
        return code.kind, f"shifted({x}, {self.use(by, 'u32')}, {left})"

    _shl = _shr = _shift

    def _bfe(self, code: Instruction) -> tuple[str, str]:
        x, first, count = (self.use(o, k) for o, k in zip(code.operands[1:],
                           (code.kind, "u32", "u32"), strict=True))  # fmt: skip
        return code.kind, f"extracted({x}, {first}, {count})"

    def _bfi(self, code: Instruction) -> tuple[str, str]:
        kinds = (code.kind, code.kind, "u32", "u32")
        operands = [self.use(o, k) for o, k in zip(code.operands[1:], kinds, strict=True)]
        return code.kind, f"inserted({', '.join(operands)})"

    def extreme_halves(self, code: Instruction, guard: str) -> None:
        """Of two 16-bit floats in 32 bits each; what becomes of a NaN must be said."""
        if code.op[1:-1] != ("NaN",):
            raise unknown(str(code))
        a, b = (self.use(o, "b32") for o in code.operands[1:])
        found = f"larger_halves({a}, {b}, {code.kind!r}, {code.op[0] == 'min'})"
        self.define(code.operands[0], "b32", found, guard)

    def sum_of_halves(self, code: Instruction, guard: str) -> None:
        if code.op[1:-1] != ("rn",):
            raise unknown(str(code))
        kind = "b32" if code.kind.endswith("x2") else "b16"
        operands = ", ".join(self.use(o, kind) for o in code.operands[1:])
        found = f"sixteen_bits({code.op[0]!r}, {code.kind!r}, {operands})"
        self.define(code.operands[0], kind, found, guard)

    def move(self, code: Instruction, guard: str) -> None:
        to, source = code.operands
        if len(code.op) != 2:
            raise unknown(str(code))
        if to[0] == "{":
            parts = to.strip("{}").split(",")
            kind = f"b{8 * bytes_of(code.kind) // len(parts)}"
            halves = self.new(f"{self.use(source, code.kind)}.view('{TYPES[kind]}')")
            for i, part in enumerate(parts):
                self.define(part, kind, f"{halves}[{i}::{len(parts)}].copy()", guard)
        elif source[0] == "{":
            parts = source.strip("{}").split(",")
            kind = f"b{8 * bytes_of(code.kind) // len(parts)}"
            values = ", ".join(self.use(part, kind) for part in parts)
            whole = f"np.stack(({values}), 1).view('{TYPES[code.kind]}')[:, 0]"
            self.define(to, code.kind, whole, guard)
        else:
            self.define(to, code.kind, self.use(source, code.kind), guard)

    # ---- memory and other threads

    def memory(self, code: Instruction, access: Access, guard: str) -> None:
        site, mask = self.named(access, "site"), self.mask(guard)
        if code.op[0] == "ldmatrix":
            address = self.address(code.operands[1])
            for i, register in enumerate(code.operands[0].strip("{}").split(",")):
                lanes = self.named(matrix_lanes(i, self.kernel.threads))
                found = self.new(f"X.load({site}, {address}[{lanes}[0]] + {lanes}[1], {mask})")
                self.define(register, "b32", f"{found}[0]", guard)
        elif code.op[0] == "ld":
            to = code.operands[0].strip("{}").split(",")
            if len(to) != access.count:
                raise unknown(str(code))
            found = self.new(f"X.load({site}, {self.address(code.operands[1])}, {mask})")
            for i, register in enumerate(to):
                self.define(register, code.kind, f"{found}[{i}]", guard)
        elif code.op[0] == "st":
            given = [self.use(o, code.kind) for o in code.operands[1].strip("{}").split(",")]
            if len(given) != access.count:
                raise unknown(str(code))
            self.say(f"X.store({site}, {self.address(code.operands[0])}, "
                     f"({', '.join(given)},), {mask})")  # fmt: skip
        else:
            to, *rest = code.operands if code.op[0] == "atom" else ("_", *code.operands)
            given = [self.use(o, code.kind) for o in rest[1:]]
            found = self.new(f"X.atomic({site}, {self.address(rest[0])}, "
                             f"({', '.join(given)},), {mask})")  # fmt: skip
            self.define(to, code.kind, found, guard)

    def among_lanes(self, code: Instruction, guard: str) -> None:
        first, mask = code.op[0], self.mask(guard)
        if first == "shfl" and code.op[1] == "sync" and code.kind == "b32":
            to, _, valid = code.operands[0].partition("|")
            a, b, c = (self.use(o, "b32") for o in code.operands[1:4])
            members = self.use(code.operands[4], "b32")
            if all(o[0] != "%" for o in code.operands[2:4]):  # nearly always
                lanes = self.named(_lanes(code.op[2], *code.operands[2:4], self.kernel.threads))
            else:
                lanes = self.new(f"source_lanes({code.op[2]!r}, {b}, {c}, {self.kernel.threads})")
            if mask != "None":
                self.say(f"take_part({members}, {mask})")
            self.define(to, "b32", f"{a}[{lanes}[0]]", guard)
            if valid:
                self.define(valid, "pred", f"{lanes}[1]", guard)
        elif first == "redux" and code.op[1] == "sync" and len(code.op) == 4:
            a, members = self.use(code.operands[1], code.kind), self.use(code.operands[2], "b32")
            value = f"reduce({code.op[2]!r}, {a}, {members}, {mask})"
            self.define(code.operands[0], code.kind, value, guard)
        elif first == "vote" and code.op[1] == "sync":
            a = self.read(code.operands[1])
            members = self.use(code.operands[2], "b32")
            value = f"vote({code.op[2]!r}, {a}, {members}, {mask})"
            self.define(code.operands[0], code.kind, value, guard)
        elif first == "activemask" and self.partly and not guard:
            self.define(code.operands[0], "b32", "ballot(M)")
        elif first == "activemask" and not guard:
            self.define(code.operands[0], "b32", self.use("0xffffffff", "b32"))
        else:
            raise unknown(str(code))

    def synchronise(self, code: Instruction) -> None:
        first, *rest = code.op
        if first in ("bar", "barrier"):
            if rest[:2] == ["warp", "sync"]:
                members = self.use(code.operands[0], "b32")
                self.say(f"X.warp_barrier({members}, {self.mask('')})")
            elif rest not in (["sync"], ["sync", "aligned"]) or code.operands != ("0",):
                raise unknown(str(code))
        elif first == "fence" and len(rest) == 2 and rest[0] in ("acq_rel", "sc"):
            self.say(f"X.fence({rest[1]!r}, {self.mask('')})")
        elif first == "membar" and len(rest) == 1:
            scope = {"cta": "cta", "gl": "gpu", "sys": "sys"}[rest[0]]
            self.say(f"X.fence({scope!r}, {self.mask('')})")
        else:
            raise unknown(str(code))
