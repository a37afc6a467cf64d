"""Registers, immediates and addresses of PTX as numpy expressions."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from support.ptx import arithmetic
from support.ptx.arithmetic import TYPES
from support.ptx.faults import unknown
from support.ptx.lanes import ballot, reduce, source_lanes, take_part, vote
from support.ptx.parse import Kernel, bytes_of

SPECIAL = {"%tid.x": "X.thread", "%ctaid.x": "X.block", "%ntid.x": "X.threads",
           "%nctaid.x": "X.blocks", "%laneid": "X.lane"}  # fmt: skip
_ZERO = {"%tid.y", "%tid.z", "%ctaid.y", "%ctaid.z"}
_LANES = {f.__name__: f for f in (ballot, reduce, source_lanes, take_part, vote)}


@dataclass
class Lowered:
    """A basic block as the source of a function, and what the source refers to."""

    lines: list[str] = field(default_factory=list)
    names: dict[str, Any] = field(default_factory=dict)

    def compiled(self) -> Callable[..., Any]:
        source = "def run(X, R, M):\n " + "\n ".join(self.lines or ["pass"])
        scope = {"np": np, **arithmetic.HELPERS, **_LANES, **self.names}
        exec(_code(source), scope)
        return scope["run"]


@functools.lru_cache(maxsize=20_000)
def _code(source: str) -> Any:
    return compile(source, "<ptx>", "exec")


class Operands:
    """The variables of one basic block's function.

    Args:
        places: number of each register, which is its place in R.
        local: registers that no other block reads.
        partly: whether some threads may not run it; M tells which do.
    """

    def __init__(
        self, kernel: Kernel, places: Mapping[str, int], local: set[str], partly: bool
    ) -> None:
        self.kernel, self.places, self.local, self.partly = kernel, places, local, partly
        self.out = Lowered()
        self.held: dict[str, dict[str, str]] = {}  # variables by register and numpy type
        self.changed: set[str] = set()
        self.count = 0

    def say(self, line: str) -> None:
        self.out.lines.append(line)

    def new(self, expression: str) -> str:
        self.count += 1
        self.say(f"t{self.count} = {expression}")
        return f"t{self.count}"

    def named(self, value: object, prefix: str = "c") -> str:
        name = f"{prefix}{len(self.out.names)}"
        self.out.names[name] = value
        return name

    def natural(self, register: str) -> str:
        """The numpy type in which a register is kept."""
        kind = self.kernel.registers[register]
        return "?" if kind == "pred" else f"u{bytes_of(kind)}"

    def read(self, register: str, code: str = "") -> str:
        """The variable with a register's value, as a numpy type of its size."""
        natural = self.natural(register)
        code = code or natural
        held = self.held.setdefault(register, {})
        if not held:
            held[natural] = self.new(f"R[{self.places[register]}]")
        if code not in held:
            held[code] = self.new(f"{next(iter(held.values()))}.view('{code}')")
        return held[code]

    def use(self, operand: str, kind: str) -> str:
        """The value of an operand of a type."""
        code = TYPES[kind]
        if operand in self.kernel.registers:
            natural = self.natural(operand)
            if (natural == "?") != (code == "?") or code[1:] > natural[1:]:
                raise unknown(f"{operand} as {kind}")
            if code == "?" or code[1:] == natural[1:]:
                return self.read(operand, code)
            low = f"{self.read(operand)}.astype('u{code[1:]}')"
            return low if code[0] == "u" else f"{low}.view('{code}')"
        if operand in SPECIAL:
            return f"{SPECIAL[operand]}.astype('{code}')"
        if operand in _ZERO:
            return self.named(np.zeros(self.kernel.threads, code))
        value = self.constant(operand, code)
        return self.named(np.full(self.kernel.threads, value))

    def constant(self, operand: str, code: str) -> Any:
        """An immediate, or the address of a symbol."""
        if match := re.fullmatch(r"0([fd])([0-9A-Fa-f]+)", operand):
            size = {"f": 4, "d": 8}[match[1]]
            bits = np.array(int(match[2], 16), f"u{size}")
            if int(code[1:]) == size:
                return bits.view(code)[()]
            return bits.view(f"f{size}").astype(code)[()]
        known = dict(self.kernel.shared)
        known |= {p.name: p.offset for p in self.kernel.parameters}
        number = re.fullmatch(r"-?(?:0[xX][0-9A-Fa-f]+|\d+)U?", operand)
        if number is None and operand not in known:
            raise unknown(operand)
        value = int(operand.rstrip("U"), 0) if number else known[operand]
        if code == "?":
            return np.bool_(value != 0)
        if code[0] == "f":
            return np.array(float(value), code)[()]
        size = int(code[1:])
        return np.array(value % (1 << 8 * size), f"u{size}").view(code)[()]

    def address(self, operand: str) -> str:
        """That of [register + offset], as uint64."""
        match = re.fullmatch(r"\[([%$\w.]+)(?:\+(-?\w+))?\]", operand)
        if match is None:
            raise unknown(operand)
        base, offset = match[1], int(match[2] or "0", 0)
        if base not in self.kernel.registers:
            return self.named(np.full(self.kernel.threads, self.constant(base, "u8")
                                      + np.uint64(offset)))  # fmt: skip
        value = self.read(base)
        if self.natural(base) != "u8":
            value = f"{value}.astype('u8')"
        return f"{value} + {self.named(np.uint64(offset % (1 << 64)))}" if offset else value

    def define(self, register: str, kind: str, expression: str, guard: str = "") -> None:
        """Set a register, in the threads where `guard` holds if there is one."""
        if register == "_":
            return
        if register not in self.kernel.registers:
            raise unknown(register)
        code, natural = TYPES[kind], self.natural(register)
        if (code == "?") != (natural == "?") or code[1:] > natural[1:]:
            raise unknown(f"{register} as {kind}")
        if code[1:] != natural[1:]:
            expression = f"({expression}).astype('{code[0]}{natural[1:]}')"
            code = code[0] + natural[1:]
        value = self.new(expression)
        if guard:
            value = self.new(f"np.where({guard}, {value}, {self.read(register, code)})")
        self.held[register] = {code: value}
        self.changed.add(register)
