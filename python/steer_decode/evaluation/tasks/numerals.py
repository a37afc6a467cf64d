"""Numbers as people write them, to the last digit.

Models write them likewise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_MOST_DIGITS = 4000
_TOLD = 6  # significant digits from which a decimal number may stand for what it is a rounding of
_NOISE = Fraction(1, 10**13)

_GROUPED = r"\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d{1,3}(?:'\d{3})+|\d{1,3}(?:_\d{3})+"
_WHOLE = rf"(?:{_GROUPED}|\d+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.\d*)?|\.\d+)"
_EUROPEAN = r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?: \d{3})+,(?!\d{3}(?!\d))\d+|\d{1,3}(?:\.\d{3}){2,}"
_TIMES = r"\s*(?:\\times|\\cdot|\*|x|X)\s*"
_POWER = (
    r"10\s*(?:\^|\*\*)\s*(?:\{\s*(?P<{0}a>[+-]?\s*\d+)\s*\}"
    r"|\(\s*(?P<{0}b>[+-]?\s*\d+)\s*\)|(?P<{0}c>[+-]?\d+))"
)
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*(?:"
    + rf"(?P<european>{_EUROPEAN})|"
    + rf"(?P<scientific>{_DECIMAL})(?:[eE](?P<e>[+-]?\d+)|{_TIMES}{_POWER.replace('{0}', 's')})|"
    + _POWER.replace("{0}", "p")
    + rf"|(?P<repeating>\d+\.\d*)\\overline\s*\{{(?P<again>\d+)\}}|(?P<decimal>{_DECIMAL}))"
)
_SIGNED = r"[+-]?\s*(?:[^{}/]+)"
_FRACTION = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:(?P<whole>\d+)(?:\s+|\s*(?=\\frac)))?"
    rf"(?:\\frac\s*(?:\{{(?P<a>{_SIGNED})\}}|(?P<a1>\d))\s*(?:\{{(?P<b>{_SIGNED})\}}|(?P<b1>\d))"
    rf"|(?P<c>{_SIGNED})\\over(?![a-z])\s*(?P<d>[^{{}}/]+)"
    rf"|(?:\(\s*(?P<ep>{_SIGNED})\)|(?P<e>[^{{}}()/\s][^{{}}()/]*?))\s*/\s*(?:\(\s*(?P<fp>{_SIGNED})\)|(?P<f>[^{{}}()/]+)))"
)


@dataclass(frozen=True)
class Exact:
    """What a numeral says.

    Attributes:
        value: exactly.
        step: one unit of the last digit of a decimal number of six significant digits or more, None
            of others: whole numbers and fractions mean what they say.
    """

    value: Fraction
    step: Fraction | None = None


def read_number(text: str) -> Exact | None:
    """The number that the whole of ``text`` is, or None.

    Decimal and scientific notation, groups of thousands ("1,234.5", "1 234", "1'234",
    "1.234.567,8"), fractions and mixed numbers, in plain text or LaTeX, as
    :func:`steer_decode.evaluation.tasks.normal.plain` writes them.
    """
    text = _unwrapped(text.strip())
    if not text or len(text) > _MOST_DIGITS:
        return None
    found = _NUMBER.fullmatch(text)
    return _number(found) if found else _fraction(text)


def equal(reference: Exact, answer: Exact) -> bool:
    """Whether two numbers are the same.

    Exactly so; or but for what doubles get wrong in their last digits; or one is a decimal number
    of six significant digits or more and lies less than one unit of its last digit from the other
    (of two such numbers the coarser one's). A whole number is met exactly or not at all.
    """
    a, b = reference.value, answer.value
    difference = abs(a - b)
    if not difference:
        return True
    whole = (
        a.denominator == 1 and reference.step is None,
        b.denominator == 1 and answer.step is None,
    )
    if not all(whole) and difference <= _NOISE * max(abs(a), abs(b)):
        return True
    if any(whole):
        return False
    steps = [number.step for number in (reference, answer) if number.step is not None]
    return bool(steps) and _fine(reference) and _fine(answer) and difference < max(steps)


def _fine(number: Exact) -> bool:
    """Whether six digits of it tell; a fraction that is no decimal number has endless ones."""
    return number.step is not None or bool(_odd(number.value.denominator) > 1)


def _odd(n: int) -> int:
    for prime in (2, 5):
        while n % prime == 0:
            n //= prime
    return n


def _unwrapped(text: str) -> str:
    """Without braces or brackets around the whole: "{-5}", "-(5)" or "(5)" is a number too."""
    for _ in range(4):
        found = re.fullmatch(r"([+-]?)\s*(?:\{([^{}]*)\}|\(([^()]*)\))", text)
        if not found:
            break
        inner = (found[2] if found[2] is not None else found[3]).strip()
        if found[1] and inner[:1] in ("+", "-"):
            return text
        text = found[1] + inner
    return text


def _number(found: re.Match[str]) -> Exact | None:
    minus = found["sign"] == "-"
    if found["repeating"]:
        head, again = found["repeating"], found["again"]
        scale = 10 ** len(head.partition(".")[2])
        value = Fraction(head + "0" if head.endswith(".") else head)
        value += Fraction(int(again), scale * (10 ** len(again) - 1))
        return Exact(-value if minus else value)
    exponent = next((found[g] for g in ("e", "sa", "sb", "sc", "pa", "pb", "pc") if found[g]), "0")
    power = int(exponent.replace(" ", "")) if len(exponent) < 8 else _MOST_DIGITS + 1
    if abs(power) > _MOST_DIGITS:
        return None
    european = found["european"]
    if european:
        digits = re.sub(r"[. ]", "", european).replace(",", ".")
    else:
        digits = re.sub(r"[, '_]", "", found["scientific"] or found["decimal"] or "1")
    whole, point, rest = digits.partition(".")
    value = Fraction(int(whole + rest or "0")) * Fraction(10) ** (power - len(rest))
    told = len((whole + rest).lstrip("0"))
    rounded = (bool(rest) or found["scientific"] is not None) and told >= _TOLD
    if point and not whole + rest:
        return None
    step = Fraction(10) ** (power - len(rest)) if rounded else None
    return Exact(-value if minus else value, step)


def _fraction(text: str) -> Exact | None:
    found = _FRACTION.fullmatch(text)
    if not found:
        return None
    above = next(found[g] for g in ("a", "a1", "c", "ep", "e") if found[g] is not None)
    below = next(found[g] for g in ("b", "b1", "d", "fp", "f") if found[g] is not None)
    parts = [_NUMBER.fullmatch(_unwrapped(part.strip())) for part in (above, below)]
    numbers = [_number(part) if part else None for part in parts]
    top, bottom = numbers
    if top is None or bottom is None or not bottom.value:
        return None
    value = top.value / bottom.value
    if found["whole"] is not None:
        if not 0 <= value < 1 or top.value.denominator != 1 or bottom.value.denominator != 1:
            return None
        value += int(found["whole"])
    return Exact(-value if found["sign"] == "-" else value)
