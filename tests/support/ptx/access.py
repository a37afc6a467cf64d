"""What an instruction does to memory."""

from __future__ import annotations

from dataclasses import dataclass

from support.ptx.arithmetic import TYPES
from support.ptx.faults import unknown
from support.ptx.parse import Instruction

_SPACES = ("global", "shared", "param")
_ORDERS = ("weak", "relaxed", "acquire", "release", "acq_rel", "volatile", "sc")
_SCOPES = ("cta", "gpu", "sys", "cluster")
_CACHES = ("ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc")


@dataclass(frozen=True)
class Access:
    """What a load, a store or an atomic does to memory."""

    space: str
    code: str  # numpy type of an element in memory
    count: int  # elements
    cache: str  # "" is the default, which L1 may serve
    order: str
    scope: str
    action: str  # of an atomic: "add", ...
    text: str

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return int(self.code[1:])

    @property
    def strong(self) -> bool:
        """Whether it is no data race with another strong one."""
        return self.order not in ("", "weak")


def access_of(code: Instruction) -> Access | None:
    """The access that an instruction makes, None where it is no instruction of memory.

    Of `ldmatrix` that of a thread, to its two elements of a row.
    """
    if code.op[:4] == ("ldmatrix", "sync", "aligned", "m8n8") and code.op[-2:] == ("shared", "b16"):
        return Access("shared", "u4", 1, "", "", "", "", str(code))
    if code.op[0] not in ("ld", "st", "atom", "red"):
        return None
    rest = list(code.op[1:-1])

    def take(among: tuple[str, ...], default: str) -> str:
        found = [part for part in rest if part in among]
        if len(found) > 1:
            raise unknown(str(code))
        for part in found:
            rest.remove(part)
        return found[0] if found else default

    atomic = code.op[0] in ("atom", "red")
    space = take(_SPACES, "generic")
    scope, cache = take(_SCOPES, ""), take(_CACHES, "")
    order = take(_ORDERS, "relaxed" if atomic else "")
    scope = scope or ("gpu" if atomic else "sys" if order == "volatile" else "")
    if space == "shared" and scope == "cta":
        scope = ""  # st.shared::cta, where it is part of the space
    action = take(("add", "min", "max", "and", "or", "xor", "exch", "cas"), "") if atomic else ""
    count = int(take(("v2", "v4", "v8"), "v1")[1:])
    if rest or (atomic and not action) or (order not in ("", "weak", "volatile") and not (
            scope or space == "shared")):  # fmt: skip
        raise unknown(str(code))
    kind = TYPES.get(code.kind, "?")
    if kind == "?" or code.kind in ("f16", "bf16"):
        raise unknown(str(code))
    return Access(space, kind, count, cache, order, scope, action, str(code))
