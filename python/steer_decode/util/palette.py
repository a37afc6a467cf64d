"""Colours, one meaning each.

On a white page, on a dark one, and on a ground that nobody knows. The two writers, chance and the
routers can be told apart with the common kinds of colour blindness, and nowhere is colour alone:
markers, letters and line styles say the same.
"""

from __future__ import annotations

from typing import NamedTuple


class Colour(NamedTuple):
    """One colour in the shades that it is shown in.

    Attributes:
        light: on a white page.
        dark: on a dark one.
        terminal: between the two, for a terminal, whose ground may be either.
    """

    light: str
    dark: str
    terminal: str = ""


COLOURS: dict[str, Colour] = {
    "ink": Colour("#1c2430", "#e6e9ef"),
    "quiet": Colour("#5a6473", "#a3acba"),
    "rule": Colour("#d5dae1", "#3a4350"),
    "page": Colour("#ffffff", "#14181f"),
    "panel": Colour("#f5f7f9", "#1d232c"),
    "small": Colour("#0b7a6f", "#4fc3b0", "#2a9d8f"),
    "large": Colour("#b8500b", "#f0985a", "#e07a3f"),
    "chance": Colour("#6b7481", "#9aa4b3"),
    # Routers take turns. Where steps are told apart and no router is in sight, the first two say
    # which is which: see SURE and UNSURE.
    "r0": Colour("#0065a8", "#62b0ea"),
    "r1": Colour("#a63a82", "#e48cc3"),
    "r2": Colour("#716100", "#d2c04c"),
    "r3": Colour("#3d3d46", "#ccd0d8"),
    "r4": Colour("#7c3fb5", "#b892e6"),
}
SURE, UNSURE = COLOURS["r0"], COLOURS["r1"]  # of right answers and confident steps; of the others


def variables(variant: str) -> str:
    """CSS custom properties of the ``light`` or ``dark`` colours."""
    return " ".join(f"--{name}: {getattr(c, variant)};" for name, c in COLOURS.items())
