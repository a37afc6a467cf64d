"""Whether an answer is that of the reference.

Either is compared as what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from .final import bare
from .formulas import Formulas
from .normal import compact, plain
from .numerals import equal
from .reading import Equation, Formula, Number, Several, Value, Words, label, read, words

_MOST = 30  # values in a list that are compared in any order
_DENIES = re.compile(r"\b(?:not|never|cannot|nor|neither|wrong|incorrect)\b|n't\b", re.I)
_DOLLARS = re.compile(
    r"(?<![\\$])\$(?=[^\s$])([^$]*?[^\s$\\])\$(?![\d$])|\\\((.+?)\\\)|\\\[(.+?)\\\]"
)
_SAYS = re.compile(r"\b(?:is|are|equals|be|gives|get|yields)\b|:|=|\\approx|≈", re.I)
_REMARK = re.compile(r"\s+\([^()]*[A-Za-z]{2}[^()]*\)\s*$")
_FIGURE = re.compile(r"[$€£¥₹+-]?[\d.][^\s]*")


def agrees(reference: str, answer: str, formulas: Formulas) -> bool:
    """Whether ``answer`` says what ``reference`` does.

    Numbers are compared as numbers, lists by their parts, words as words, the rest by math-verify.
    An answer that is a sentence says what its last formula does, else what follows its last "is" or
    "=", else its last figure.

    Raises:
        Undecided: math-verify took too long.
    """
    wanted = read(reference)
    if wanted is None or not answer.strip():
        return False
    if compact(plain(bare(reference))) == compact(plain(bare(answer))):
        return True
    found = read(answer)
    if found is None:
        return False
    if not isinstance(wanted, Words) and (choice := label(answer)):
        found = read(choice[1]) or found
    if isinstance(wanted, Words) or not isinstance(found, Words):
        if _same(wanted, found, formulas):
            return True
        return isinstance(wanted, Words) and _chosen(reference, answer)
    said = next((v for v in _said(answer, isinstance(wanted, Several)) if v is not None), None)
    return _same(wanted, said if said is not None else found, formulas)


def _chosen(reference: str, answer: str) -> bool:
    """Whether one of the two is the letter or the words of the choice that the other is."""
    for one, other in ((reference, answer), (answer, reference)):
        parts = label(other)
        if parts and words(one).text in (parts[0], words(parts[1]).text) and not label(one):
            return True
    ours, theirs = label(reference), label(answer)
    return bool(ours and theirs and ours[0] == theirs[0] and words(ours[1]) == words(theirs[1]))


def _said(sentence: str, several: bool) -> Iterator[Value | None]:
    """What a sentence may say, the likeliest first; nothing where it denies."""
    sentence = bare(sentence)
    if _DENIES.search(sentence):
        return
    if (remark := _REMARK.search(sentence)) is not None:
        yield _mathematics(sentence[: remark.start()])
    marked = [next(filter(None, found.groups())) for found in _DOLLARS.finditer(sentence)]
    marked = [part for part in marked if part[0] not in "^_"]  # of a unit, as in "cm$^2$"
    if several and len(marked) > 1:
        yield _mathematics(", ".join(marked))
    if marked:
        yield _mathematics(marked[-1])
    ends = [found.end() for found in _SAYS.finditer(sentence)]
    for end in ends if several else ends[::-1]:
        yield _mathematics(sentence[end:])
    for part in reversed(sentence.split()):
        if _FIGURE.fullmatch(part):
            yield _mathematics(part.rstrip(",;:!?"))


def _mathematics(text: str) -> Value | None:
    found = read(text)
    return None if isinstance(found, Words) else found


def _same(reference: Value, answer: Value, formulas: Formulas) -> bool:
    if isinstance(reference, Several) or isinstance(answer, Several):
        return _same_lists(reference, answer, formulas)
    if isinstance(reference, Equation) and isinstance(answer, Equation):
        if reference.left == answer.left and _same(reference.right, answer.right, formulas):
            return True
        return formulas.same((reference.latex, None), (answer.latex, None))
    if isinstance(reference, Equation):
        simple = re.fullmatch(r"\\?[A-Za-z]+'*(?:_\{?\w+\}?)?(?:\([^()]*\))?", reference.left)
        return bool(simple) and _same(reference.right, answer, formulas)
    if isinstance(answer, Equation):
        return _same(reference, answer.right, formulas)
    if isinstance(reference, Number) and isinstance(answer, Number):
        return _same_numbers(reference, answer)
    if isinstance(reference, Words) and isinstance(answer, Words):
        return reference.text == answer.text
    sides = [_formula(side) for side in (reference, answer)]
    return None not in sides and formulas.same(*filter(None, sides))


def _same_numbers(reference: Number, answer: Number) -> bool:
    units = {reference.unit, answer.unit} - {""}
    if len(units) > 1:
        return False
    if equal(reference.exact, answer.exact):
        return True
    # 5 % is 0.05; where only one says "per cent", the other may have left it out.
    if units == {"%"} and reference.unit != answer.unit:
        a, b = (
            replace(n.exact, value=n.exact.value / 100, step=n.exact.step and n.exact.step / 100)
            if n.unit
            else n.exact
            for n in (reference, answer)
        )
        return equal(a, b)
    return False


def _formula(value: Value) -> tuple[str, str | None] | None:
    """LaTeX of a value, and the unit of its last digit; None of words."""
    if isinstance(value, Number):
        exact = value.exact.value
        sign = "-" if exact < 0 else ""
        latex = f"{abs(exact.numerator)}"
        if exact.denominator != 1:
            latex = rf"\frac{{{latex}}}{{{exact.denominator}}}"
        return sign + latex, str(value.exact.step) if value.exact.step else None
    if isinstance(value, Formula):
        return value.latex, None
    if isinstance(value, Words) and re.fullmatch(r"[a-z]", value.text):
        return value.text, None  # a variable
    return None


def _same_lists(reference: Value, answer: Value, formulas: Formulas) -> bool:
    """Lists in one kind of brackets, in order unless these are braces or none."""
    if isinstance(reference, Formula) or isinstance(answer, Formula):
        sides = [_written(side) for side in (reference, answer)]
        return None not in sides and formulas.same(*filter(None, sides))
    if isinstance(reference, Equation):
        return _same(reference.right, answer, formulas)
    if isinstance(answer, Equation):
        return _same(reference, answer.right, formulas)
    if not isinstance(reference, Several) or not isinstance(answer, Several):
        return False
    kinds = {reference.brackets, answer.brackets}
    if len(kinds) > 1 and "" not in kinds:
        return False
    ours, theirs = reference.parts, answer.parts
    if kinds - {"", "{}"}:  # in order
        return len(ours) == len(theirs) and all(
            _same(a, b, formulas) for a, b in zip(ours, theirs, strict=True)
        )
    if len(ours) > _MOST or len(theirs) > _MOST:
        return ours == theirs
    if kinds == {""}:
        left = list(theirs)
        for a in ours:
            place = next((i for i, b in enumerate(left) if _same(a, b, formulas)), None)
            if place is None:
                return False
            del left[place]
        return not left
    return all(any(_same(a, b, formulas) for b in theirs) for a in ours) and all(
        any(_same(a, b, formulas) for a in ours) for b in theirs
    )


def _written(value: Value) -> tuple[str, str | None] | None:
    """LaTeX of a list, for what is compared with a formula (a union of intervals, say)."""
    if not isinstance(value, Several):
        return _formula(value)
    parts = [_formula(part) for part in value.parts]
    if None in parts:
        return None
    inner = ", ".join(part[0] for part in parts if part)
    brackets = value.brackets or "{}"
    opens, closes = brackets[0], brackets[1]
    return (rf"\{opens}{inner}\{closes}" if opens == "{" else f"{opens}{inner}{closes}"), None
