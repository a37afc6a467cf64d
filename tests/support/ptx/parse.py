"""The text of a PTX module, read into one kernel of basic blocks.

Only the text is taken apart here: what an instruction means is in lower.py and arithmetic.py.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from support.ptx.faults import Fault

WIDTH = {"8": 1, "16": 2, "32": 4, "64": 8}  # bytes by the digits of a type
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s+\.\w+\s+(?:\.align\s+\d+\s+)?)?"
    r"([\w$]+)(?:\[(\d+)\])?"
)
_SHARED = re.compile(r"(\.extern\s+)?\.shared\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)"
                     r"(?:\[(\d*)\])?")  # fmt: skip
_STATEMENT = re.compile(r"\s*(?:(?P<label>[$\w]+)\s*:|(?P<brace>[{}])|(?P<text>[^;{}]*"
                        r"(?:\{[^{};]*\}[^;{}]*)*);)")  # fmt: skip
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")


def bytes_of(kind: str) -> int:
    """Size of a fundamental type, as "u32" or "bf16"."""
    return WIDTH[re.sub(r"\D+", "", kind)]


@dataclass(frozen=True)
class Instruction:
    """One instruction; `op` is its parts, as ("ld", "global", "cg", "b32")."""

    op: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str | None  # name of a predicate register
    negated: bool
    text: str
    where: str = ""  # file:line of the source, as far as the compiler tells

    @property
    def kind(self) -> str:
        """The type of its operands: the last part."""
        return self.op[-1]

    def __str__(self) -> str:
        return f"{self.text}  ({self.where})" if self.where else self.text

    def with_text(self, text: str) -> Instruction:
        """The same place, another instruction."""
        return dataclasses.replace(_instruction(text, {}), where=self.where)


@dataclass(frozen=True)
class Basic:
    """Instructions that run one after another.

    Only the last can jump, wait or end; where a thread goes from there is in `then`.
    """

    code: tuple[Instruction, ...]
    ends: str  # "falls", "jumps", "branches", "waits", "returns" or "yields"
    target: int = -1


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    offset: int
    size: int


@dataclass(frozen=True)
class Kernel:
    """One entry of a module."""

    name: str
    parameters: tuple[Parameter, ...]
    registers: dict[str, str]  # types by name
    shared: dict[str, int]  # addresses by symbol
    shared_bytes: int  # of static shared memory; what is `extern` begins there
    threads: int
    blocks: tuple[Basic, ...]

    @functools.cached_property
    def instructions(self) -> list[tuple[int, int, Instruction]]:
        """Block, place in it and instruction, in their order."""
        return [(b, i, code) for b, block in enumerate(self.blocks)
                for i, code in enumerate(block.code)]  # fmt: skip

    def replaced(self, block: int, place: int, by: Instruction | None) -> Kernel:
        """A kernel with one instruction exchanged, or left out."""
        old = self.blocks[block]
        code = (*old.code[:place], *(() if by is None else (by,)), *old.code[place + 1 :])
        ends = "falls" if by is None and place == len(old.code) - 1 else old.ends
        new = dataclasses.replace(old, code=code, ends=ends)
        blocks = (*self.blocks[:block], new, *self.blocks[block + 1 :])
        return dataclasses.replace(self, blocks=blocks)


# ---- the module ----------------------------------------------------------------------------------


def parse(ptx: str, entry: str = "") -> Kernel:
    """The kernel whose name holds `entry`, of which there is one."""
    heads = [m for m in re.finditer(r"\.entry\s+([\w$]+)\s*\(", ptx) if entry in m[1]]
    if len(heads) != 1:
        raise ValueError(f"{len(heads)} entries have {entry!r} in their names, not one")
    (head,) = heads
    close = ptx.index(")", head.end())
    open_ = ptx.index("{", close)
    body = _until_closed(_lines(ptx[open_:]))
    threads = re.search(r"\.(?:reqntid|maxntid)\s+(\d+)(?:\s*,\s*1\s*,\s*1)?\s", ptx[close:open_])
    if threads is None:
        raise ValueError(f"{head[1]} does not say how many threads it has")
    following = ptx.find(".entry", close)
    declared = ptx[: ptx.find(".entry")] + ptx[open_ : following if following > 0 else None]
    shared, size = _shared(declared)
    registers, statements = _statements(body)
    return Kernel(head[1], tuple(_parameters(ptx[head.end() : close])), registers, shared, size,
                  int(threads[1]), _blocks(statements))  # fmt: skip


def _parameters(text: str) -> Iterator[Parameter]:
    offset = 0
    for align, kind, name, count in _PARAMETER.findall(text):
        size = bytes_of(kind) * int(count or 1)
        unit = int(align or bytes_of(kind))
        offset = -(-offset // unit) * unit
        yield Parameter(name, kind, offset, size)
        offset += size


def _shared(text: str) -> tuple[dict[str, int], int]:
    places: dict[str, int] = {}
    dynamic, end = [], 0
    for extern, align, kind, name, count in _SHARED.findall(text):
        if extern:
            dynamic.append(name)
            continue
        unit = int(align or bytes_of(kind))
        places[name] = -(-end // unit) * unit
        end = places[name] + bytes_of(kind) * int(count or 1)
    end = -(-end // 16) * 16
    return places | dict.fromkeys(dynamic, end), end


def _lines(text: str) -> Iterator[str]:
    """Code without comments and directives; a line that begins with "@@" tells a source line."""
    for line in text.splitlines():
        code, _, remark = line.partition("//")
        code = code.strip()
        if code.startswith(".loc"):
            if said := re.search(r"[\w.]+\.\w+:\d+", remark):
                yield f"@@{said[0]}"
        elif code and not code.startswith((".file", ".section", ".pragma", ".shared", ".extern")):
            yield code


def _until_closed(lines: Iterator[str]) -> list[str]:
    """The body of a function, without its own braces."""
    kept, depth = [], 0
    for line in lines:
        if not line.startswith("@@"):
            depth += line.count("{") - line.count("}")
        if depth == 0:
            return [kept[0][1:], *kept[1:]]
        kept.append(line)
    raise ValueError("the text ends inside a kernel")


# ---- statements ----------------------------------------------------------------------------------


def _statements(lines: list[str]) -> tuple[dict[str, str], list[str | Instruction]]:
    """Types of the registers; labels and instructions in their order."""
    registers: dict[str, str] = {}
    found: list[str | Instruction] = []
    scopes: list[dict[str, str]] = []  # names of registers declared in braces, as they are here
    where, rest = "", ""
    for line in lines:
        if line.startswith("@@"):
            where = line[2:]
            continue
        rest += line + " "
        while match := _STATEMENT.match(rest):
            rest = rest[match.end() :]
            if match["label"]:
                found.append(match["label"])
            elif match["brace"]:
                scopes.append({}) if match["brace"] == "{" else scopes.pop()
            elif text := match["text"].strip():
                if text.startswith(".reg"):
                    _declare(text, registers, scopes)
                elif text.startswith("."):
                    raise Fault("unknown", f"the directive `{text}`")
                else:
                    names = {k: v for scope in scopes for k, v in scope.items()}
                    found.append(dataclasses.replace(_instruction(text, names), where=where))
    if rest.strip():
        raise Fault("unknown", f"the text `{rest.strip()}`")
    return registers, found


def _declare(text: str, registers: dict[str, str], scopes: list[dict[str, str]]) -> None:
    _, kind, names = text.split(None, 2)
    for name in names.split(","):
        name = name.strip()
        if many := re.fullmatch(r"(%?\w+)<(\d+)>", name):
            registers |= {f"{many[1]}{i}": kind[1:] for i in range(int(many[2]))}
        else:
            known = name
            if scopes:
                known = scopes[-1][name] = f"%{name}.{len(registers)}"
            registers[known] = kind[1:]


def _instruction(text: str, names: dict[str, str]) -> Instruction:
    text = " ".join(text.split())
    for name, known in names.items():
        text = re.sub(rf"(?<![\w%.]){re.escape(name)}(?![\w.])", known, text)
    match = re.fullmatch(r"(?:@(!?)(%[\w.]+)\s+)?(\S+)(.*)", text)
    assert match is not None
    negated, guard, op, rest = match.groups()
    operands = tuple(re.sub(r"\s+", "", o) for o in _OPERAND.findall(rest))
    return Instruction(
        tuple(op.replace("::", ".").split(".")), operands, guard, bool(negated), text
    )


# ---- basic blocks --------------------------------------------------------------------------------


def ending(code: Instruction) -> str:
    """How a block ends with this instruction, "" where it goes on."""
    first, rest = code.op[0], code.op[1:]
    if first == "bra":
        return "jumps" if code.guard is None else "branches"
    if first in ("ret", "exit"):
        return "returns"
    if first in ("bar", "barrier"):
        return "falls" if "warp" in rest else "waits"
    strong = {"relaxed", "acquire", "release", "volatile"} & set(rest)
    if first in ("atom", "red", "fence", "membar") or (first in ("ld", "st") and strong):
        return "yields"  # others may run here
    return ""


def _blocks(statements: list[str | Instruction]) -> tuple[Basic, ...]:
    blocks: list[tuple[list[Instruction], str]] = [([], "falls")]
    labels: dict[str, int] = {}
    for said in statements:
        if isinstance(said, str):
            if blocks[-1][0]:
                blocks.append(([], "falls"))
            labels[said] = len(blocks) - 1
        else:
            blocks[-1][0].append(said)
            if end := ending(said):
                blocks[-1] = (blocks[-1][0], end)
                blocks.append(([], "falls"))
    if not blocks[-1][0] and len(blocks) - 1 not in labels.values():
        del blocks[-1]
    made = []
    for code, ends in blocks:
        jump = ends in ("jumps", "branches")
        if jump and code[-1].operands[-1] not in labels:
            raise Fault("unknown", f"where `{code[-1]}` jumps to")
        made.append(Basic(tuple(code), ends, labels[code[-1].operands[-1]] if jump else -1))
    return tuple(made)
