"""Answers in any form that says the same: numbers, fractions and mixed numbers, drawn."""
# ruff: noqa: RUF001  # signs that look like others are what this is about

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from steer_decode.evaluation.tasks import final_answer
from steer_decode.evaluation.tasks.checkers import exact
from steer_decode.evaluation.tasks.normal import plain
from steer_decode.evaluation.tasks.numerals import read_number

FORMS = {
    "decimal": lambda x: (str(x), Fraction(x)),
    "groups": lambda x: (f"{x:,}", Fraction(x)),
    "thin groups": lambda x: (f"{x:,}".replace(",", "\u202f"), Fraction(x)),
    "LaTeX groups": lambda x: (f"{x:,}".replace(",", "{,}"), Fraction(x)),
    "minus sign": lambda x: (str(x).replace("-", "\u2212"), Fraction(x)),
    "full width": lambda x: ("".join(chr(ord(c) + 0xFEE0) for c in str(x)), Fraction(x)),
    "dollars": lambda x: (f"${x}$", Fraction(x)),
    "braces": lambda x: (f"{{{x}}}", Fraction(x)),
}


RELAXED = settings(deadline=None, max_examples=60)


class TestRoundTrips:
    """Whatever a number is written in is read as that number."""

    @RELAXED
    @given(st.integers(-(10**30), 10**30), st.sampled_from(sorted(FORMS)))
    def test_whole_numbers(self, x: int, form: str) -> None:
        text, value = FORMS[form](x)
        found = read_number(plain(text.strip("$")))
        assert found is not None
        assert (found.value, found.step) == (value, None)

    @RELAXED
    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_floats(self, x: float) -> None:
        value = Fraction(repr(x)) if "e" not in repr(x) else Fraction(*_ratio(repr(x)))
        mantissa, _, exponent = f"{x:.17e}".partition("e")
        same = Fraction(mantissa) * Fraction(10) ** int(exponent)
        raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        forms = {
            repr(x): value,
            repr(x).upper(): value,
            f"{mantissa}\\times10^{{{int(exponent)}}}": same,
            f"{mantissa} × 10{raised}": same,
            f"{mantissa}*10**{int(exponent)}": same,
            f"{mantissa} \\cdot 10^{{{int(exponent)}}}": same,
        }
        for text, wanted in forms.items():
            found = read_number(plain(text))
            assert found is not None, text
            assert found.value == wanted, text

    @RELAXED
    @given(st.integers(-(10**9), 10**9), st.integers(1, 10**9))
    def test_fractions(self, above: int, below: int) -> None:
        sign, size = ("-" if above < 0 else ""), abs(above)
        for text in (
            f"{above}/{below}",
            f"{sign}\\frac{{{size}}}{{{below}}}",
            f"\\dfrac{{{above}}}{{{below}}}",
            f"{sign}{{{size} \\over {below}}}",
            f"{above} / {below}",
        ):
            found = read_number(plain(text))
            assert found is not None, text
            assert found.value == Fraction(above, below), text

    @RELAXED
    @given(st.integers(0, 10**6), st.integers(1, 10**4), st.integers(1, 10**4), st.booleans())
    def test_mixed_numbers(self, whole: int, above: int, more: int, minus: bool) -> None:
        below = above + more
        value = whole + Fraction(above, below)
        sign = "-" if minus else ""
        for text in (
            f"{sign}{whole} {above}/{below}",
            f"{sign}{whole}\\frac{{{above}}}{{{below}}}",
        ):
            found = read_number(plain(text))
            assert found is not None, text
            assert found.value == (-value if minus else value), text

    @RELAXED
    @given(st.text(max_size=40))
    def test_nothing_raises_on_any_text(self, text: str) -> None:
        exact(text, "42")
        read_number(plain(final_answer(text)))


def _ratio(text: str) -> tuple[int, int]:
    mantissa, _, exponent = text.partition("e")
    return (Fraction(mantissa) * Fraction(10) ** int(exponent)).as_integer_ratio()
