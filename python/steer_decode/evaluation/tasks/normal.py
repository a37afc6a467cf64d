"""One way to write what can be written in many.

Unicode and LaTeX spacing are made plain.
"""
# ruff: noqa: RUF001  # signs that look like others are what this is about

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

_SUPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni", strict=True))
_SUB = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎", "0123456789+-=()", strict=True))
_SYMBOLS = {
    "−": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-", "‒": "-",
    "×": r"\times ", "✕": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ",
    "÷": "/", "∕": "/", "⁄": "/", "√": r"\sqrt ", "π": r"\pi ", "∞": r"\infty ", "°": r"^{\circ}",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∪": r"\cup ",
    "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "θ": r"\theta ", "α": r"\alpha ",
    "β": r"\beta ", "λ": r"\lambda ", "φ": r"\phi ", "′": "'", "’": "'", "‘": "'", "“": '"',
    "”": '"', "，": ",", "、": ",", "。": ".", "％": "%", "＄": "$",
    "٫": ".", "٬": ",",
}  # fmt: skip
_RUNS = (
    (re.compile(f"[{re.escape(''.join(_SUPER))}]+"), _SUPER, "^"),
    (re.compile(f"[{re.escape(''.join(_SUB))}]+"), _SUB, "_"),
)
_DASH = re.compile(r"(?:(?<=^)|(?<=[\s(=,{\[^]))[–—](?=\s?[\d.\\])")
_VULGAR = re.compile(r"(\d?)\s?([¼-¾⅐-⅞↉])")
_ROOT = re.compile(r"\\sqrt\s+(\(([^()]*)\)|\d+(?:\.\d+)?|[A-Za-z])")
_SPACING = re.compile(
    r"(?P<row>\\\\)|\\[,;:!> ]|\\q?quad(?![A-Za-z])|~"
    r"|\\(?:displaystyle|limits|left|right)(?![A-Za-z])\.?"
)
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\;|\\ |\\!|~)(?=\d{3}(?!\d))")
_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_ROWS = re.compile(r"\\(?:begin|end)\s*\{(?:align|aligned|equation|gather|gathered|split)\*?\}")
_FRAC = re.compile(r"\\[dtc]frac(?![A-Za-z])")


def plain(text: str) -> str:
    """``text`` with one character for each meaning.

    Minus signs, digits, fractions, powers, spaces. Superscripts become ``^{}``, "½" becomes "1/2"
    and "2½" becomes "2 1/2", full-width letters and digits of any script become ASCII ones, LaTeX
    spacing and ``\\left``, ``\\right`` go.
    """
    for pattern, table, mark in _RUNS:
        text = pattern.sub(_raised(table, mark), text)
    text = _VULGAR.sub(_vulgar, text)
    text = "".join(_SYMBOLS.get(c, c) for c in text)
    text = unicodedata.normalize("NFKC", text)
    text = "".join(map(_character, text))
    text = _DASH.sub("-", text)
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m[2] or m[1]}}}", text)
    text = _ROWS.sub(" ", text).replace("&=", "=")
    text = _FRAC.sub(lambda _: r"\frac", text)
    text = _THOUSANDS.sub(",", text)
    text = _SPACING.sub(lambda m: m["row"] or " ", text)
    return " ".join(text.replace(r"\%", "%").replace(r"\$", "$").replace(r"\#", "#").split())


def compact(text: str) -> str:
    """Leave white space out, where it says nothing.

    "1 1/2" is not 11/2.
    """
    return _SPACE.sub("", text)


def _raised(table: dict[str, str], mark: str) -> Callable[[re.Match[str]], str]:
    return lambda m: f"{mark}{{{''.join(table[c] for c in m[0])}}}"


def _vulgar(found: re.Match[str]) -> str:
    fraction = unicodedata.normalize("NFKC", found[2]).replace("\u2044", "/")
    return f"{found[1]} {fraction}" if found[1] else fraction


def _character(c: str) -> str:
    if c.isascii():
        return c
    kind = unicodedata.category(c)
    if kind == "Nd":
        return str(unicodedata.decimal(c))
    if kind in ("Zs", "Zl", "Zp"):
        return " "
    return "" if kind == "Cf" else c  # zero-width characters, marks of direction
