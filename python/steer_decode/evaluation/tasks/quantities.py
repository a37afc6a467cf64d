"""Numbers with a unit.

Currencies, per cent, measures, words that say of what there are so many.
"""
# ruff: noqa: RUF001  # signs that look like others are what this is about

from __future__ import annotations

import re
from fractions import Fraction

from .numerals import Exact, read_number

_NAMES = {
    "%": "% percent percentage",
    "$": "$ usd dollar",
    "€": "€ eur euro",
    "£": "£ gbp",
    "¥": "¥ jpy yen",
    "₹": "₹ inr rupee",
    "°": "° deg degree",
    "°c": "°c celsius",
    "°f": "°f fahrenheit",
    "mm": "mm millimeter millimetre",
    "cm": "cm centimeter centimetre",
    "m": "m meter metre",
    "km": "km kilometer kilometre",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard",
    "mi": "mi mile",
    "mg": "mg milligram",
    "g": "g gram gramme",
    "kg": "kg kilogram kilogramme",
    "lb": "lb lbs pound",
    "oz": "oz ounce",
    "t": "t ton tonne",
    "ml": "ml milliliter millilitre",
    "l": "l liter litre",
    "ms": "ms millisecond",
    "s": "s sec second",
    "min": "min mins minute",
    "h": "h hr hrs hour",
    "day": "day",
    "week": "week",
    "month": "month",
    "year": "yr yrs year",
    "hz": "hz hertz",
    "khz": "khz",
    "mhz": "mhz",
    "n": "n newton",
    "j": "j joule",
    "kj": "kj",
    "w": "w watt",
    "kw": "kw",
    "kwh": "kwh",
    "v": "v volt",
    "a": "a amp ampere",
    "ohm": "ohm",
    "k": "k kelvin",
    "pa": "pa pascal",
    "kpa": "kpa",
    "mol": "mol mole",
    "rad": "rad radian",
    "mph": "mph",
    "rpm": "rpm",
    "cent": "cent ¢",
}
_UNITS = {name: unit for unit, names in _NAMES.items() for name in names.split(" ")} | {
    "us dollar": "$",
    "degree celsius": "°c",
    "degree fahrenheit": "°f",
}
_SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
# Words after a number that make it another thing than so many of something.
_OTHER = re.compile(
    r"\b(?:is|are|was|were|be|not|no|never|cannot|because|since|which|that|but|or|if|than|more|less"
    r"|plus|minus|times|over|divided|modulo?|factorial|squared|cubed|remainder|and|to"
    r"|jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b"
)
_PREFIX = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<unit>[$€£¥₹]|USD|EUR|GBP)\s*(?P<rest>[+-]?\s*[\d.].*)", re.S
)
_TEXT = re.compile(r"\\(?:text|mathrm|mbox|textrm|textbf|operatorname)\s*\{([^{}]*)\}")
_CIRC = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)")
_SUFFIX = re.compile(
    r"(?P<number>[^A-Za-z%°$€£¥₹¢]*?[\d})](?:[eE][+-]?\d+)?\.?)(?P<gap>\s*)"
    r"(?P<unit>[A-Za-z%°$€£¥₹¢][^\\=+]*)",
    re.S,
)
_MEASURE = re.compile(
    r"(square |cubic |sq\.? |cu\.? )?([a-z°$€£¥₹%¢]+(?: [a-z]+)?)\s*(?:\^?\s*\{?(-?[23])\}?)?"
)


def read_quantity(text: str) -> tuple[Exact, str] | None:
    """Read a number and its unit.

    The unit is "" where it has none; None stands for a text that is no such thing. Units are those
    of :data:`_NAMES`, with powers and quotients; words ("42 apples") are read and left out. What
    might be a variable ("5m", "2x") is no unit.
    """
    number = read_number(text)
    if number is not None:
        return number, ""
    if found := _PREFIX.fullmatch(text):
        rest = read_quantity(found["sign"] + found["rest"])
        unit = _UNITS[found["unit"].lower()]
        return (rest[0], unit) if rest and rest[1] in ("", unit) else None
    spoken = _CIRC.sub("°", text)
    marked = _TEXT.sub(lambda m: f" {m[1].strip()}", spoken)
    found = _SUFFIX.fullmatch(_scientific(marked))
    if not found:
        return None
    number = read_number(_back(found["number"]).strip())
    if number is None:
        return None
    unit = " ".join(found["unit"].strip().rstrip(".").split())
    for word, factor in _SCALES.items():
        if unit.lower() == word or unit.lower().startswith(word + " "):
            number = Exact(number.value * Fraction(factor))
            unit = unit[len(word) :].strip()
    known = "" if not unit else _canonical(unit, spaced=bool(found["gap"]))
    return None if known is None else (number, known)


def _scientific(text: str) -> str:
    """Commands of numbers as characters, so that letters begin the unit."""
    text = re.sub(r"\\times(?![a-z])|(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))", "×", text)
    return text.replace(r"\cdot ", "·").replace(r"\frac", "÷")


def _back(text: str) -> str:
    return text.replace("×", r"\times ").replace("·", r"\cdot ").replace("÷", r"\frac")


def _canonical(unit: str, spaced: bool) -> str | None:
    """One name for a unit; "" for other words; None for what is no unit."""
    if len(unit) == 1 and unit.isalpha() and not spaced:
        return None
    lower = unit.lower()
    parts = re.split(r"\s*/\s*| per ", lower)
    names = [_measure(part.strip()) for part in parts]
    if all(name is not None for name in names):
        return "/".join(name for name in names if name)
    words = lower.replace("-", " ").split()
    spelled = all(re.fullmatch(r"[a-z]+", word) for word in words) and len(words) <= 5
    # "2 xyz" may be a product; "2 men" is none.
    said = len(words[0]) >= 4 or (
        len(words[0]) == 3
        and bool(set("aeiou") & set(words[0]))
        and sorted(words[0]) != list(words[0])
    )
    if spaced and spelled and said and not _OTHER.search(lower):
        return ""
    return None


def _measure(text: str) -> str | None:
    found = _MEASURE.fullmatch(text)
    if not found:
        return None
    name = found[2]
    unit = (
        _UNITS.get(name)
        or _UNITS.get(name.removesuffix("s"))
        or _UNITS.get(name.replace("s ", " "))
    )
    if unit is None:
        return None
    power = found[3] or {"s": "2", "c": "3"}.get((found[1] or " ")[0], "")
    return f"{unit}^{power}" if power else unit
