"""Text that is shown to people, and never obeyed.

A task, a trace, a folder of results, a model's answer and its name may hold anything. Sent to a
terminal as it is, an escape sequence writes to the clipboard, renames the window or repaints what
was said before; a bidi override turns a sentence around; a carriage return hides its beginning.
Everything for the eye therefore goes through :func:`printable` or :func:`one_line`. Data goes
through neither: files, and standard output where it is no terminal, hold what was written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any

# From 999.5 on, three digits would round up to 1000 of the smaller prefix.
_PREFIXES = (
    (1e24, "Y"),
    (1e21, "Z"),
    (1e18, "E"),
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
)
_LONGEST = 2000  # characters of a sentence; beyond it nobody reads, and a screen scrolls away
# Python counts these among what is not printable: the joiners of Persian, Indic scripts and emoji,
# and the spaces of all scripts. They reorder nothing.
_HARMLESS = {0xA0, 0x1680, *range(0x2000, 0x200B), 0x200C, 0x200D, 0x202F, 0x205F, 0x3000}
_UNSEEN = re.compile(r"[^\n\t -~]")


def printable(text: str) -> str:
    """``text`` with a sign for every character that has none.

    Line breaks stay. One character becomes one character, so that places in the text stay what they
    are: control characters their pictures (U+2400 and on), all others U+FFFD. Among these are C1
    controls, bidi overrides, line separators, and halves of a surrogate pair.
    """
    return _UNSEEN.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    if code < 32:
        return chr(0x2400 + code)
    if code == 127:
        return "\u2421"
    return character if character.isprintable() or code in _HARMLESS else "\ufffd"


def one_line(text: str) -> str:
    """``text`` as one sentence.

    White space is one space, and what is too long is cut.
    """
    line = " ".join(printable(text.replace("\r\n", "\n")).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ... ({len(line):,} characters)"


def short(value: object, limit: int = 60) -> str:
    """``repr`` of a value, for a sentence about it.

    The value is from elsewhere; the text is cut at ``limit``.
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits; endless nesting
        return f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= limit else f"{text[:limit]}..."


def cell(text: str) -> str:
    """``text`` inside a Markdown table.

    One line, with no column, tag or link of its own.
    """
    return re.sub(r"([|<\[`\\])", r"\\\1", " ".join(printable(text).split()))


def dump(data: Any, indent: int | None = None) -> str:
    """``data`` as JSON of which every character can be printed.

    NaN and infinity become null. Text of other scripts stays readable. What would act on a
    terminal, or is half a character, stands as the escape that JSON has for it, so that reading it
    back gives the same text.
    """
    text = json.dumps(finite(data), ensure_ascii=False, allow_nan=False, indent=indent)
    return re.sub(r"[^\n -~]", _escaped, text)


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]


def finite(data: Any) -> Any:
    """``data`` with null for infinity and NaN.

    JSON has neither (a margin may be infinite).
    """
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def count(number: int, noun: str) -> str:
    """``1 token``, ``2 tokens``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def significant(value: float, digits: int = 3) -> str:
    """``digits`` significant digits, never as a power of ten.

    ``0.0123``, ``14,313``.
    """
    text = f"{value:.{digits}g}"
    if "e" not in text:
        return text
    if abs(value) >= 1:
        return f"{value:,.0f}"
    return f"{value:.{digits - 1 - math.floor(math.log10(abs(value)))}f}"


def duration(seconds: float) -> str:
    """``0.0123 s``, ``14,313 s``."""
    return f"{significant(seconds)} s"


def prefix(values: Iterable[float]) -> tuple[float, str]:
    """Factor and letter of a column's metric prefix.

    It fits the largest of ``values``.
    """
    largest = max((abs(value) for value in values), default=0.0)
    return next((p for p in _PREFIXES if largest >= 0.9995 * p[0]), (1.0, ""))


def si(value: float) -> str:
    """Three significant digits and a metric prefix.

    Ready for a unit: ``12.3 M``.
    """
    factor, letter = prefix([value])
    if letter:
        return f"{value / factor:#.3g} {letter}".replace(". ", " ")
    return f"{significant(value)} "
