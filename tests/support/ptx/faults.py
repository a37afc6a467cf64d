"""What a kernel can do wrong, as one exception with a kind."""

from __future__ import annotations


class Fault(Exception):
    """A kernel did what the machine does not allow, or what no order of its threads makes right.

    Attributes:
        kind: ``unknown`` (an instruction this package does not know), ``bounds``, ``alignment``,
            ``readonly``, ``uninitialised``, ``race`` (threads of one block, no barrier between),
            ``order`` (blocks, no release and acquire between), ``stale`` (a load that L1 may
            serve), ``divergence`` (threads missing from a barrier or a shuffle) or ``endless``.
    """

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind = kind


def unknown(text: str) -> Fault:
    return Fault("unknown", f"no meaning is known for `{text}`")
