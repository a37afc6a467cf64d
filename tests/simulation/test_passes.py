"""The time of a pass: given, assumed, fitted to timed passes."""

from __future__ import annotations

from dataclasses import astuple

import pytest
from steer_decode.errors import SteerError
from steer_decode.simulation.passes import SHARE, PassTime, Timed, fit, parse


def test_one_number_is_enough() -> None:
    found = parse("--small-ms", "4.6")
    assert found == PassTime(4.6, 4.6 * SHARE, 4.6 * SHARE)
    assert found.seconds(1, 1) == pytest.approx(0.0046)
    assert found.seconds(129, 129) == pytest.approx(2 * 0.0046)


def test_rows_and_tokens_may_be_given() -> None:
    assert parse("--small-ms", "10:0.5") == PassTime(10, 0.5, 10 * SHARE)
    assert parse("--small-ms", "10:0.5:0") == PassTime(10, 0.5, 0)
    assert parse("--small-ms", "10:0.5:0.2:3") == PassTime(10, 0.5, 0.2, 3)
    # Three rows, of which one reads eight tokens.
    assert parse("--small-ms", "10:0.5:0.2").seconds(3, 10) == pytest.approx(0.0124)
    assert parse("--small-ms", "10:0.5:0.2:3").seconds(3, 10) == pytest.approx(0.0154)
    assert parse("--small-ms", "10:0.5:0.2:3").seconds(3, 3) == pytest.approx(0.011)
    assert parse("--small-ms", PassTime(10, 0.5, 0.2, 3).option) == PassTime(10, 0.5, 0.2, 3)


@pytest.mark.parametrize(
    "text", ["", "fast", "0", "-1", "nan", "inf", "4:-1", "4:0:0:0:0", "1e9", ":"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(SteerError, match=r"^--large-ms must be MS.* got"):
        parse("--large-ms", text)


def test_a_line_is_found_again() -> None:
    right = PassTime(5, 0.25, 0.125, 0.5)
    timed = [
        Timed(rows, tokens, 1e3 * right.seconds(rows, tokens))
        for rows in (1, 4, 16)
        for tokens in (rows, rows + 60, rows + 90)
    ]
    found = fit(timed)
    assert astuple(found) == pytest.approx(astuple(right))


def test_no_number_of_a_fit_is_negative() -> None:
    """Where more rows took less time by chance, they take none."""
    timed = [Timed(1, 1, 5.0), Timed(8, 8, 4.0), Timed(1, 33, 9.0), Timed(1, 65, 12.0)]
    found = fit(timed)
    assert found.row == 0
    assert 4 <= found.ms <= 5
    assert found.token == pytest.approx(3 / 32)
    assert found.seconds(1, 65) == pytest.approx(0.012)


@pytest.mark.parametrize("timed", [[], [Timed(1, 1, 0.0)], [Timed(1, 1, float("nan"))]])
def test_nothing_to_fit(timed: list[Timed]) -> None:
    with pytest.raises(SteerError, match="must be timed"):
        fit(timed)
