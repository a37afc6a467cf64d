"""How each router is drawn in every picture.

It has the colour of its family and a marker of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...util.palette import COLOURS

_COLOURS = ("r0", "r1", "r2", "r3", "r4")
_MARKERS = "DPvX*<>d"
_METHODS = ("accept", "draft", "part")


class Style(NamedTuple):
    """How a router is drawn, everywhere."""

    colour: str
    marker: str

    @property
    def light(self) -> str:
        return COLOURS[self.colour].light


def family(described: str) -> str:
    """The family of a router, from its full description.

    Its name, and what makes another method of it: the rule by which drafts stay, drafts in the
    large model's steps (``draft``), and parts in place of steps (``part``).
    """
    name, *parts = described.partition(" ")[0].split(":")
    for part in parts:
        key, equals, _ = part.partition("=")
        if not equals or key == "accept":  # MODULE:CLASS is a name; each rule is a method
            name += f":{part}"
        elif key in _METHODS:
            name += f":{key}"
    return name


def styles(
    routers: Sequence[tuple[str, str]], described: Mapping[str, str] | None = None
) -> dict[str, Style]:
    """The style of each (router, kind), in order.

    Controls have colours of their own; families take turns at the rest, and routers at the markers.
    No two of up to 40 routers look alike, nor have up to 8 one marker.

    Args:
        routers: names and kinds.
        described: their full descriptions, where a name is not its own.
    """
    fixed = {"small": Style("small", "o"), "large": Style("large", "s")}
    found: dict[str, Style] = {}
    colours: dict[str, str] = {}
    turn = 0
    for router, kind in routers:
        if kind in fixed:
            found[router] = fixed[kind]
        elif kind == "random":
            found[router] = Style("chance", "^")
        else:
            method = family((described or {}).get(router, router))
            colour = colours.setdefault(method, _COLOURS[len(colours) % len(_COLOURS)])
            found[router] = _free(colour, turn, set(found.values()))
            turn += 1
    return found


def _free(colour: str, turn: int, taken: set[Style]) -> Style:
    """The next marker that is free in ``colour``, else in another colour."""
    at = _COLOURS.index(colour)
    choices = [
        Style(one, _MARKERS[(turn + step) % len(_MARKERS)])
        for one in (*_COLOURS[at:], *_COLOURS[:at])
        for step in range(len(_MARKERS))
    ]
    return next((style for style in choices if style not in taken), choices[0])
