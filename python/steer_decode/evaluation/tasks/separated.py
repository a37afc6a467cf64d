"""Lists in one text, split at their separators.

Parts may hold a separator in brackets, quotes and names of files.
"""

from __future__ import annotations

from collections.abc import Callable

_PAIRS = {"[": "]", "{": "}", "(": ")"}


def separated(text: str, separator: str, whole: Callable[[str], bool] | None = None) -> list[str]:
    """Split ``text`` at separators that stand in no brackets.

    Nor in double quotes. Brackets and quotes that do not close enclose nothing.

    Args:
        text: any.
        separator: one character.
        whole: whether several parts with the separators between them are one part after all (the
            name of a file, say); the longest such stretch is.
    """
    parts = _parts(text, separator)
    if whole is None:
        return parts
    joined: list[str] = []
    start = 0
    while start < len(parts):
        stops = range(len(parts), start + 1, -1)
        pieces = ((stop, separator.join(parts[start:stop]).strip()) for stop in stops)
        stop, piece = next(
            ((stop, piece) for stop, piece in pieces if whole(piece)), (start + 1, parts[start])
        )
        joined.append(piece)
        start = stop
    return joined


def _parts(text: str, separator: str) -> list[str]:
    parts, start, place = [], 0, 0
    while place < len(text):
        character = text[place]
        if character == separator:
            parts.append(text[start:place])
            start = place + 1
        elif character == '"' or character in _PAIRS:
            place = _end(text, place)
        place += 1
    return [*parts, text[start:]]


def _end(text: str, start: int) -> int:
    """Where what opens at ``start`` closes; ``start`` itself where it does not."""
    stack: list[str] = []
    place, quoted = start, False
    while place < len(text):
        character = text[place]
        if quoted:
            if character == "\\":
                place += 1
            elif character == '"':
                quoted = False
        elif character == '"':
            quoted = True
        elif character in _PAIRS:
            stack.append(_PAIRS[character])
        elif stack and character == stack[-1]:
            stack.pop()
        if not stack and not quoted:
            return place
        place += 1
    return start
