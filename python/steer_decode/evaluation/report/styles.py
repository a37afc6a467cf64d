"""How each router is drawn in every picture.

It has a colour and a marker of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...util.palette import COLOURS

_MARKERS = "DPvX*<>d"


class Style(NamedTuple):
    """How a router is drawn, everywhere."""

    colour: str
    marker: str

    @property
    def light(self) -> str:
        return COLOURS[self.colour].light


def styles(routers: Sequence[tuple[str, str]]) -> dict[str, Style]:
    """The style of each (router, kind), in order.

    Controls have colours of their own, the rest take turns.
    """
    fixed = {"small": Style("small", "o"), "large": Style("large", "s")}
    found: dict[str, Style] = {}
    turn = 0
    for router, kind in routers:
        if kind in fixed:
            found[router] = fixed[kind]
        elif kind == "random":
            found[router] = Style("chance", "^")
        else:
            found[router] = Style(f"r{turn % 5}", _MARKERS[turn % len(_MARKERS)])
            turn += 1
    return found
