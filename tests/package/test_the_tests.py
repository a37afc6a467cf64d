"""The tests themselves: none takes from another, and what runs by default has every value."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest
from support.selection import cover

TESTS = Path(__file__).parents[1]


def imported(path: Path) -> list[str]:
    """The modules that a file imports, anywhere in it; of ``from a import b`` a and a.b."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return names


def test_no_test_takes_from_a_test_file() -> None:
    """So that each can be moved and run alone; what several need is in support/."""
    files = sorted(TESTS.rglob("*.py"))
    modules = {path.stem for path in files if path.stem.startswith("test_")}
    assert len(modules) > 80
    found = [
        f"{path.relative_to(TESTS)} imports {name}"
        for path in files
        for name in imported(path)
        if not modules.isdisjoint(name.split("."))
    ]
    assert found == []


@pytest.mark.parametrize("times", [1, 2, 3])
def test_what_runs_by_default_has_every_value(times: int) -> None:
    axes = (range(7), range(8))
    product = list(itertools.product(*axes))
    kept = cover(product, times)
    for axis, values in enumerate(axes):
        for value in values:
            assert sum(place[axis] == value for place in kept) >= times
    # Hardly more than the longest axis asks for, and each value in other company each time.
    assert len(kept) <= times * 8 + 1


def test_a_short_axis_is_met_with_all_there_is() -> None:
    """Both values of the last axis, with each of the first: not the same pairings again."""
    kept = cover(list(itertools.product(range(4), range(4), range(2))), 2)
    assert {(a, c) for a, _, c in kept} == set(itertools.product(range(4), range(2)))


def test_values_with_few_cases_have_all_of_them() -> None:
    places = [(0, 0), (0, 1), (1, 1)]
    assert cover(places, 2) == set(places)
    assert cover(places) == {(0, 0), (1, 1)}
