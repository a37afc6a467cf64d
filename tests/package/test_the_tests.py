"""The tests themselves: their length, that none takes from another, what runs when."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest
from support.selection import cover, one_of_three

pytest_plugins = "pytester"

TESTS = Path(__file__).parents[1]
LONGEST = 300

# To be split by idea. An entry that is no longer needed fails the test.
KNOWN: set[str] = set()


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


def test_no_file_is_longer_than_three_hundred_lines() -> None:
    """One that wants more holds two ideas."""
    files = sorted(TESTS.rglob("*.py"))
    assert len(files) > 100
    long = {
        path.relative_to(TESTS).as_posix()
        for path in files
        if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST
    }
    assert long - KNOWN == set(), "split by idea"
    assert KNOWN - long == set(), "no longer needed: take it out of KNOWN"


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


@pytest.mark.parametrize("sizes", [(3, 3, 3), (3, 3, 5)])
def test_in_a_third_of_all_cases_every_two_values_meet(sizes: tuple[int, int, int]) -> None:
    """What of three parameters CI runs, the other two thirds being exhaustive."""
    product = list(itertools.product(*map(range, sizes)))
    kept = [place for place in product if one_of_three(*place).name == "slow"]
    assert len(kept) == len(product) // 3
    for a, b in itertools.combinations(range(3), 2):
        pairs = {(place[a], place[b]) for place in kept}
        assert pairs == set(itertools.product(range(sizes[a]), range(sizes[b])))


def test_what_ci_leaves_out_is_neither_default_nor_the_only_case(pytester: pytest.Pytester) -> None:
    """Three selections, of which every case is in one: default, CI's slow ones, the others."""
    pytester.makeconftest(
        "from support import selection\n"
        "def pytest_configure(config):\n"
        "    for name in ('slow', 'exhaustive', 'spread(times, ci)', 'few(n)'):\n"
        "        config.addinivalue_line('markers', name)\n"
        "def pytest_collection_modifyitems(items):\n"
        "    selection.spare_the_usual_pairings(items)\n"
        "    selection.spare_what_many_cases_show(items)\n"
        "    selection.what_ci_leaves_out_is_slow(items)\n"
    )
    pytester.makepyfile(
        "import pytest\n"
        "@pytest.mark.spread(1, ci=2)\n"
        "@pytest.mark.parametrize('a', range(5))\n"
        "@pytest.mark.parametrize('b', range(5))\n"
        "def test_product(a, b): ...\n"
        "@pytest.mark.exhaustive\n"
        "def test_large(): ...\n"
        "@pytest.mark.few(2)\n"
        "@pytest.mark.parametrize('a', range(7))\n"
        "def test_alike(a): ...\n"
    )
    counts = []
    for chosen in ("not slow", "slow and not exhaustive", "exhaustive"):
        done = pytester.runpytest_inprocess("-m", chosen, "-p", "no:xdist")
        counts.append(done.parseoutcomes()["passed"])
    default, ci, rest = counts
    assert default == 5 + 2
    assert 5 + 5 <= ci <= 7 + 5
    assert sum(counts) == 5 * 5 + 1 + 7
    assert rest >= 13 + 1
