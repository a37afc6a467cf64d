"""Colours of the report, each with one meaning.

There is a light and a dark variant.

The two writers, chance and the routers can be told apart with the common kinds of colour
blindness, and nowhere is colour alone: markers, letters and line styles say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Colour(NamedTuple):
    """On a white page and on a dark one."""

    light: str
    dark: str


COLOURS: dict[str, Colour] = {
    "ink": Colour("#1c2430", "#e6e9ef"),
    "quiet": Colour("#5a6473", "#a3acba"),
    "rule": Colour("#d5dae1", "#3a4350"),
    "page": Colour("#ffffff", "#14181f"),
    "panel": Colour("#f5f7f9", "#1d232c"),
    "small": Colour("#0b7a6f", "#4fc3b0"),
    "large": Colour("#b8500b", "#f0985a"),
    "chance": Colour("#6b7481", "#9aa4b3"),
    "r0": Colour("#0065a8", "#62b0ea"),
    "r1": Colour("#a63a82", "#e48cc3"),
    "r2": Colour("#716100", "#d2c04c"),
    "r3": Colour("#3d3d46", "#ccd0d8"),
    "r4": Colour("#7c3fb5", "#b892e6"),
}
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


def variables(variant: str) -> str:
    """CSS custom properties of the ``light`` or ``dark`` colours."""
    return " ".join(f"--{name}: {getattr(c, variant)};" for name, c in COLOURS.items())
