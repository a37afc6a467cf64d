"""What instructions without memory do, as numpy over the threads of a block.

A function here takes an instruction's type and modifiers, and gives an expression of its operands
{0}, {1}, ..., or None where it knows no such instruction. `TYPES` names the numpy types.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import numpy as np

TYPES = {
    "pred": "?", "b8": "u1", "u8": "u1", "s8": "i1", "b16": "u2", "u16": "u2", "s16": "i2",
    "b32": "u4", "u32": "u4", "s32": "i4", "b64": "u8", "u64": "u8", "s64": "i8",
    "f32": "f4", "f64": "f8", "f16": "f2", "bf16": "u2",
}  # fmt: skip
INTEGERS = {"u2", "i2", "u4", "i4", "u8", "i8"}
_WIDER = {"u2": "u4", "i2": "i4", "u4": "u8", "i4": "i8"}

# ---- numbers -------------------------------------------------------------------------------------


def of_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype("u4") << np.uint32(16)).view("f4")


def to_bf16(x: np.ndarray) -> np.ndarray:
    """Rounded to the nearest, ties to even."""
    bits = x.view("u4")
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), 0x7FFF, rounded).astype("u2")


def canonical(x: np.ndarray) -> np.ndarray:
    """The one NaN that max and min with .NaN give, of no sign."""
    ones = np.array(2 ** (8 * x.dtype.itemsize - 1) - 1, f"u{x.dtype.itemsize}").view(x.dtype)
    return np.where(np.isnan(x), ones, x)


def flushed(x: np.ndarray) -> np.ndarray:
    """Denormal numbers become zeros of their sign."""
    return np.where(np.abs(x) < np.finfo("f4").tiny, np.copysign(np.float32(0), x), x)


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """A product and a sum, rounded once, or twice far beyond the result's precision."""
    wide = "f8" if a.dtype == np.float32 else np.longdouble
    return (a.astype(wide) * b + c).astype(a.dtype)


def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Towards zero; all ones where the divisor is 0, as the machine happens to do."""
    zero = b == 0
    safe = np.where(zero, b.dtype.type(1), b)
    if a.dtype.kind == "u":
        return np.where(zero, ~b.dtype.type(0), a // safe)
    down = a // safe
    inexact = (down * safe != a) & ((a < 0) != (safe < 0))
    return np.where(zero, b.dtype.type(-1), down + inexact)


def high_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of a product."""
    bits = 8 * a.dtype.itemsize
    whole = a.astype(object) * b.astype(object) if bits == 64 else a.astype(f"{a.dtype.kind}8") * b
    return (whole >> bits).astype(a.dtype)


def shifted(x: np.ndarray, by: np.ndarray, left: bool) -> np.ndarray:
    """By as many bits as there are or more, nothing is left but the sign."""
    bits = 8 * x.dtype.itemsize
    by = np.minimum(by, np.uint32(bits))
    some = np.minimum(by, np.uint32(bits - 1)).astype(x.dtype)
    if not left:
        moved = x >> some
        return moved if x.dtype.kind == "i" else np.where(by == bits, x.dtype.type(0), moved)
    return np.where(by == bits, x.dtype.type(0), x << some)


def to_integer(x: np.ndarray, kind: str, rounding: str) -> np.ndarray:
    """Clamped to the range; NaN becomes 0, as PTX has it."""
    whole = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}[rounding](x)
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    inside = np.where((whole > low) & (whole < high), whole, 0).astype(kind)
    return np.where(whole >= high, high, np.where(whole <= low, low, inside)).astype(kind)


def extracted(x: np.ndarray, first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """`count` bits from `first` on."""
    bits = np.uint32(8 * x.dtype.itemsize)
    first, count = first & np.uint32(255), count & np.uint32(255)
    unsigned = x.view(f"u{x.dtype.itemsize}")
    unit = unsigned.dtype.type(1)
    mask = shifted(np.broadcast_to(unit, x.shape), count, True) - unit
    field = shifted(unsigned, first, False) & mask
    if x.dtype.kind == "u":
        return field
    top = np.minimum(np.minimum(first + count - np.uint32(1), bits - np.uint32(1)), bits)
    sign = shifted(unsigned, top, False) & unit & (count > 0)
    return np.where(sign == 1, field | ~mask, field).view(x.dtype)


def inserted(x: np.ndarray, into: np.ndarray, first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The low `count` bits of x in place of those of `into` from `first` on."""
    ones = np.broadcast_to(x.dtype.type(1), x.shape)
    field = shifted(ones, count & np.uint32(255), True) - x.dtype.type(1)
    mask = shifted(field, first & np.uint32(255), True)
    return (into & ~mask) | (shifted(x, first & np.uint32(255), True) & mask)


def funnelled(low: np.ndarray, high: np.ndarray, by: np.ndarray) -> np.ndarray:
    """32 bits that start `by` (0 to 31) above the bottom of high:low."""
    whole = (high.astype("u8") << np.uint64(32)) | low
    return (whole >> (by & np.uint32(31)).astype("u8")).astype("u4")


def reversed_bits(x: np.ndarray) -> np.ndarray:
    bits = np.unpackbits(x.view("u1").reshape(len(x), -1), axis=1, bitorder="little")
    return np.packbits(bits[:, ::-1], axis=1, bitorder="little").view(x.dtype)[:, 0]


def leading_zeros(x: np.ndarray) -> np.ndarray:
    """As many as there are bits, of zero."""
    bits = np.unpackbits(x.view("u1").reshape(len(x), -1), axis=1, bitorder="little")[:, ::-1]
    return np.where(x == 0, 8 * x.dtype.itemsize, bits.argmax(1)).astype("u4")


def larger_halves(a: np.ndarray, b: np.ndarray, kind: str, least: bool = False) -> np.ndarray:
    """The larger (or smaller) of each of two 16-bit floats; a NaN is one number of its kind."""
    of = {"bf16x2": of_bf16, "f16x2": lambda bits: bits.view("f2")}[kind]
    halves = [of(x.view("u2")) for x in (a, b)]
    found = np.minimum(*halves) if least else np.maximum(*halves)
    bits = to_bf16(found) if kind == "bf16x2" else found.view("u2")
    return np.where(np.isnan(found), 0x7FFF, bits).astype("u2").view("u4")


def sixteen_bits(name: str, kind: str, *operands: np.ndarray) -> np.ndarray:
    """A sum or product of 16-bit floats, one or two in each operand, rounded to the nearest."""
    brain = kind.startswith("bf16")
    x = [of_bf16(o.view("u2")) if brain else o.view("f2").astype("f4") for o in operands]
    sums = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "fma": fused}
    found = sums[name](*x)
    bits = to_bf16(found) if brain else found.astype("f2").view("u2")
    return bits.view("u4") if kind.endswith("x2") else bits


def joined(high: np.ndarray, low: np.ndarray, kind: str) -> np.ndarray:
    """Two float32, each rounded to 16 bits, in one register."""
    halves = [to_bf16(x) if kind == "bf16x2" else x.astype("f2").view("u2") for x in (high, low)]
    return (halves[0].astype("u4") << np.uint32(16)) | halves[1]


HELPERS = {f.__name__: f for f in (of_bf16, to_bf16, canonical, flushed, fused, quotient,
                                   high_product, shifted, to_integer, extracted, inserted,
                                   funnelled, reversed_bits, leading_zeros,
                                   larger_halves, sixteen_bits, joined)}  # fmt: skip

# ---- instructions --------------------------------------------------------------------------------

Expression = str | None
_COMPARED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_OPPOSITE = {"equ": "ne", "neu": "eq", "ltu": "ge", "leu": "gt", "gtu": "le", "geu": "lt"}
_UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


def comparison(relation: str, code: str) -> Expression:
    """A relation of two operands of one numpy type."""
    if code[0] not in "fu" and code[0] != "i":
        return None
    if code[0] != "f":
        relation = _UNSIGNED.get(relation, relation) if code[0] == "u" else relation
        return f"{{0}} {_COMPARED[relation]} {{1}}" if relation in _COMPARED else None
    numbers = "(({0} == {0}) & ({1} == {1}))"
    if relation == "ne":
        return f"({{0}} != {{1}}) & {numbers}"
    if relation in _COMPARED:
        return f"{{0}} {_COMPARED[relation]} {{1}}"
    if relation in _OPPOSITE:
        return f"~({comparison(_OPPOSITE[relation], code)})"
    return {"num": numbers, "nan": f"~{numbers}"}.get(relation)


def _sum(code: str, mods: Collection[str], sign: str) -> Expression:
    allowed = {"rn", "ftz"} if code[0] == "f" else set()
    if code not in INTEGERS | {"f4", "f8"} or set(mods) - allowed:
        return None
    return f"{{0}} {sign} {{1}}"


def _product(code: str, mods: Collection[str], added: bool) -> Expression:
    plus = " + {2}" if added else ""
    if code[0] == "f":
        return None if added or set(mods) - {"rn", "ftz"} else "{0} * {1}"
    if code not in INTEGERS or len(mods) != 1:
        return None
    (part,) = mods
    if part == "wide" and code in _WIDER:
        return f"{{0}}.astype('{_WIDER[code]}') * {{1}}{plus}"
    return {"lo": f"{{0}} * {{1}}{plus}", "hi": f"high_product({{0}}, {{1}}){plus}"}.get(part)


def _extreme(code: str, mods: Collection[str], which: str) -> Expression:
    if code in INTEGERS and not mods:
        return f"np.{which}imum({{0}}, {{1}})"
    if code in ("f4", "f8") and not set(mods) - {"NaN", "ftz"}:
        both = f"canonical(np.{which}imum({{0}}, {{1}}))"
        return both if "NaN" in mods else f"np.f{which}({{0}}, {{1}})"
    return None


def _plain(expression: str, codes: Collection[str], *allowed: str) -> Callable[..., Expression]:
    def known(code: str, mods: Collection[str]) -> Expression:
        return expression if code in codes and not set(mods) - set(allowed) else None

    return known


_BITS = ("?", "u2", "u4", "u8")
_FLOATS = ("f4", "f8")
TABLE: dict[str, Callable[[str, Collection[str]], Expression]] = {
    "add": lambda code, mods: _sum(code, mods, "+"),
    "sub": lambda code, mods: _sum(code, mods, "-"),
    "mul": lambda code, mods: _product(code, mods, False),
    "mad": lambda code, mods: _product(code, mods, True),
    "fma": _plain("fused({0}, {1}, {2})", _FLOATS, "rn", "ftz"),
    "div": lambda code, mods: (
        "quotient({0}, {1})" if code in INTEGERS and not mods
        else _plain("{0} / {1}", _FLOATS, "rn", "full", "approx", "ftz")(code, mods)
    ),
    "rem": _plain("{0} - quotient({0}, {1}) * {1}", INTEGERS),
    "max": lambda code, mods: _extreme(code, mods, "max"),
    "min": lambda code, mods: _extreme(code, mods, "min"),
    "neg": _plain("-{0}", (*_FLOATS, "i2", "i4", "i8"), "ftz"),
    "abs": _plain("np.abs({0})", (*_FLOATS, "i2", "i4", "i8"), "ftz"),
    "not": _plain("~{0}", _BITS),
    "and": _plain("{0} & {1}", _BITS),
    "or": _plain("{0} | {1}", _BITS),
    "xor": _plain("{0} ^ {1}", _BITS),
    "ex2": _plain("np.exp2({0})", ("f4",), "approx", "ftz"),
    "lg2": _plain("np.log2({0})", ("f4",), "approx", "ftz"),
    "rcp": _plain("1 / {0}", _FLOATS, "approx", "ftz", "rn"),
    "sqrt": _plain("np.sqrt({0})", _FLOATS, "approx", "ftz", "rn"),
    "rsqrt": _plain("1 / np.sqrt({0})", _FLOATS, "approx", "ftz"),
    "popc": _plain("np.bitwise_count({0}).astype('u4')", ("u4", "u8")),
    "brev": _plain("reversed_bits({0})", ("u4", "u8")),
    "clz": _plain("leading_zeros({0})", ("u4", "u8")),
    "bfind": lambda code, mods: (  # without shiftamt the place itself
        "np.where({0} == 0, 0xFFFFFFFF, leading_zeros({0})).astype('u4')"
        if code in ("u4", "u8") and set(mods) == {"shiftamt"} else None
    ),
    "shf": lambda code, mods: (
        "funnelled({0}, {1}, {2})" if code == "u4" and list(mods) == ["r", "wrap"] else None
    ),
    "cnot": _plain("({0} == 0).astype({0}.dtype)", ("u2", "u4", "u8")),
}  # fmt: skip


def conversion(mods: list[str], to: str, source: str) -> Expression:
    """`cvt` without its types; the operand has the numpy type of its own, bf16 as its bits."""
    first = {"bf16": "of_bf16({0})", "f16": "{0}.astype('f4')"}.get(source, "{0}")
    rounding = [m for m in mods if re.fullmatch("r[nzmp]i?", m)]
    if set(mods) - set(rounding) - {"ftz"} or len(rounding) > 1 or source == "pred" == to:
        return None
    real, whole = to in ("f16", "bf16", "f32", "f64"), TYPES[source][0] in "ui" and source != "bf16"
    if real and whole:
        return f"{{0}}.astype('{TYPES[to]}')" if rounding == ["rn"] and to != "bf16" else None
    if not real and whole:
        return None if rounding else f"{{0}}.astype('{TYPES[to]}')"
    how = rounding[0] if rounding else ""
    if not real:
        return f"to_integer({first}, '{TYPES[to]}', '{how}')" if how.endswith("i") else None
    if how.endswith("i"):
        name = {"rzi": "trunc", "rni": "rint", "rmi": "floor", "rpi": "ceil"}[how]
        return f"np.{name}({first}).astype('{TYPES[to]}')"
    if how not in ("", "rn"):
        return None
    if to == "bf16":
        return f"to_bf16({first}.astype('f4'))" if how else None
    return f"{first}.astype('{TYPES[to]}')"
