"""What kind of thing an answer is.

A number, several values, an equation, a formula, or words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Union

from .final import bare
from .normal import compact, plain
from .numerals import Exact
from .quantities import read_quantity

LONGEST = 2000  # characters of an answer that may be mathematics


@dataclass(frozen=True)
class Number:
    """A number, and its unit or ""."""

    exact: Exact
    unit: str = ""


@dataclass(frozen=True)
class Words:
    """What is compared as text, in one case and spacing."""

    text: str


@dataclass(frozen=True)
class Formula:
    """Mathematics for math-verify, as LaTeX."""

    latex: str


@dataclass(frozen=True)
class Equation:
    """A left side, and the last right side."""

    left: str
    right: Value
    latex: str


@dataclass(frozen=True)
class Several:
    """Values in brackets, or in none.

    ``brackets`` are those around them, as in "[)" or "".
    """

    brackets: str
    parts: tuple[Value, ...]


Value = Union[Number, Words, Formula, Equation, Several]  # noqa: UP007  # it names itself

_ABOUT = re.compile(
    r"(?:\\approx|\\sim|~|about|approximately|approx\.?|roughly|around|exactly|only|=)\s*", re.I
)
# Dates, times, ratios, ordinals, versions, bases: figures that no arithmetic is meant by.
_SPOKEN = re.compile(
    r"\d{4}-\d{1,2}(?:-\d{1,2})?(?:[T ].*)?|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}|\d+/\d+/\d+"
    r"|.*\d\s*:\s*\d.*|\d+(?:st|nd|rd|th)\b.*|.*\d\s*[ap]\.?m\.?|\d+(?:\.\d+){2,}|\d+_\{?\d+\}?|0[xXbBoO][\da-fA-F]+",
    re.S,
)
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_INDEX = re.compile(r"_(?:\{[^{}]*\}|\w)")
_COMMAND = re.compile(r"\\[a-zA-Z]+|\\.")
_NAME = re.compile(
    r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp|pi"
    r"|theta|alpha|beta|lambda|phi|infty|min|max|gcd|lcm|det)(?![A-Za-z])"
)
_ENDLESS = re.compile(r"(?<![\\A-Za-z])(?:infinity|inf)(?![A-Za-z])", re.I)
_SQRT = re.compile(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)")
_JOINS = re.compile(r"\s*(?:;|,?\s*\\text\s*\{\s*(?:and|or)\s*\}|,?\s+(?:and|or)\s+)\s*")
_EQUALS = re.compile(r"(?<![<>!\\=])=(?!=)|\\approx(?![A-Za-z])")
_LABEL = re.compile(r"\(?([A-Za-z])[).]?")
_LABELLED = re.compile(r"(?:\(([A-Z])\)|([A-Z])[).:])\s*(\S.*)", re.S)


def read(text: str) -> Value | None:
    """Read what an answer says.

    None where it says nothing: no letter and no figure.
    """
    text = plain(bare(text)).strip()
    text = text.removesuffix(".").strip() if not text.endswith("..") else text
    return _read(text, 0) if any(c.isalnum() for c in text) or "\\" in text else None


def _read(text: str, depth: int) -> Value:
    text = text.strip()
    if _LABEL.fullmatch(text):
        return words(text)
    found = _ABOUT.match(text)
    text = text[found.end() :] if found and found.end() < len(text) else text
    if len(text) > LONGEST or depth > 8 or _SPOKEN.fullmatch(text):
        return words(text)
    if (several := _bracketed(text, depth)) is not None:
        return several
    quantity = read_quantity(text)
    if quantity is not None:
        return Number(*quantity)
    sides = _split(text, _EQUALS)
    several = _listed(text, depth)
    if several is not None:
        return several
    if len(sides) > 1 and all(side.strip() for side in sides):
        right = _read(sides[-1], depth + 1)
        if not isinstance(right, Words) or len(right.text) == 1:
            return Equation(compact(sides[0]), right, _latex(text))
    return Formula(_latex(text)) if _is_formula(text) else words(text)


def words(text: str) -> Words:
    """Text as it is compared.

    Case, quotes, emphasis, spacing and full stops do not count.
    """
    text = _TEXT.sub(lambda m: m[1], plain(bare(text)))
    text = re.sub(r"[$`\"“”]|\*\*|(?<![\w\\])'|'(?!\w)", "", text).strip().strip(".,;:!?").strip()
    text = re.sub(r"^(?:option|choice)\s+(?=\(?[A-Za-z]\)?$)", "", text, flags=re.I)
    if found := _LABEL.fullmatch(text):
        text = found[1]
    text = re.sub(r"\s*([:/,-])\s*", r"\1", " ".join(text.split()))
    return Words(text.casefold())


def label(text: str) -> tuple[str, str] | None:
    """Letter and words of a choice, as in "(B) Paris".

    None where the text is no such thing.
    """
    found = _LABELLED.fullmatch(_TEXT.sub(lambda m: m[1], plain(bare(text))).strip())
    return (str(found[1] or found[2]).casefold(), found[3]) if found else None


def _is_formula(text: str) -> bool:
    """Whether a text that is neither number nor list is mathematics, and not words."""
    if not text.isascii() or re.search(
        r"[?\"@#;$]|[A-Za-z]\d|\d\s+\d", _INDEX.sub("", _COMMAND.sub(",", text))
    ):
        return False
    if any(re.search(r"[A-Za-z]{2}", m[1]) for m in _TEXT.finditer(text)):
        return False
    rest = _SQRT.sub(" (0) ", _ENDLESS.sub(" 0 ", text))
    rest = _NAME.sub(" 0 ", _COMMAND.sub(" ", re.sub(r"\\(?:begin|end)\s*\{[a-z*]+\}", " ", rest)))
    rest = re.sub(r"\{[clr|]+\}", " ", rest)
    if re.search(
        r"[A-Za-z]{4}|[A-Z][A-Za-z]|[a-z]{2,}\s+[a-z]{2,}|[a-z]{2,}\s+\d|[A-Za-z]'[a-z]", rest
    ):
        return False
    if re.search(r"[a-z]{2}", rest):
        return bool(re.search(r"[\d^+=]", rest)) or "\\" in text
    return bool(re.search(r"[\d^+\-*/=<>!|()]", rest)) or "\\" in text or "0" in rest


def _latex(text: str) -> str:
    """LaTeX of what may be written in plain text."""
    text = _SQRT.sub(lambda m: rf"\sqrt{{{m[1]}}}", _ENDLESS.sub(r"\\infty", text))
    text = _NAME.sub(lambda m: "\\" + m[1], text).replace("**", "^").replace("<=", r"\le ")
    text = re.sub(r"\^\s*\(([^()]*)\)", lambda m: f"^{{{m[1]}}}", text.replace(">=", r"\ge "))
    if "\\" not in text:
        text = re.sub(r"\^(-?\d+)", lambda m: f"^{{{m[1]}}}", text)
    return text.replace("*", r" \cdot ")


_OPEN, _CLOSE = ("(", "[", "{", "\\{", "\\langle"), (")", "]", "}", "\\}", "\\rangle")
_BRACKET = re.compile(r"\\[{}]|\\langle(?![a-z])|\\rangle(?![a-z])|\\begin|\\end|[()\[\]{}]")


def _depths(text: str) -> list[int]:
    """How many brackets are open at each character."""
    depths, level, last = [], 0, 0
    for found in _BRACKET.finditer(text):
        depths += [level] * (found.start() - last)
        opens = found[0] in _OPEN or found[0] == "\\begin"
        level = level + 1 if opens else max(0, level - 1)
        depths += [level if opens else level + 1] * len(found[0])
        last = found.end()
    return depths + [level] * (len(text) - last)


def _split(text: str, pattern: re.Pattern[str]) -> list[str]:
    """The parts of a text between matches outside of all brackets."""
    depths = _depths(text)
    parts, start = [], 0
    for found in pattern.finditer(text):
        if depths[found.start()] == 0 and found.start() >= start:
            parts.append(text[start : found.start()])
            start = found.end()
    return [*parts, text[start:]]


def _bracketed(text: str, depth: int) -> Several | None:
    """Values with commas between them in one pair of brackets."""
    opens = next((b for b in _OPEN if text.startswith(b)), None)
    closes = next((b for b in reversed(_CLOSE) if text.endswith(b)), None)
    if opens is None or closes is None or len(text) <= len(opens) + len(closes):
        return None
    depths = _depths(text)
    if min(depths[len(opens) : len(text) - len(closes)], default=0) < 1:
        return None
    inner = text[len(opens) : -len(closes)]
    commas = re.compile(r",\s" if ", " in inner else ",|;")
    parts = [part.strip() for part in _split(inner, commas)]
    if len(parts) < 2 or not all(parts):
        return None
    brackets = opens[-1] + closes[-1] if "\\l" not in opens else "()"
    return Several(brackets, tuple(_read(part, depth + 1) for part in parts))


def _listed(text: str, depth: int) -> Several | None:
    """Values with commas, "and" or "or" between them; words are no such thing."""
    if found := re.fullmatch(r"\\pm\s*(.+)", text):
        parts = [found[1], f"-({found[1]})"]
    elif len(parts := re.split(r"\s*\\pm\s*", text)) == 2 and all(parts) and "=" not in text:
        parts = [f"{parts[0]} + {parts[1]}", f"{parts[0]} - {parts[1]}"]
        if min(_depths(text)[m.start()] for m in re.finditer(r"\\pm", text)):
            return None
    else:
        joined = [
            p
            for part in _split(text, _JOINS)
            for p in _split(part, re.compile(r",(?!\d{3}(?!\d))|,\s"))
        ]
        parts = [part.strip() for part in joined if part.strip()]
    if len(parts) < 2:
        return None
    values = tuple(_read(part, depth + 1) for part in parts)
    if any(isinstance(v, Words) and not re.fullmatch(r"[a-z]", v.text) for v in values):
        return None
    return Several("", values)
