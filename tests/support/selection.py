"""What runs by default of tests with many cases; the others are marked slow and run in CI.

All of the thinning out is here; `conftest.py` calls it. No case is lost: ``-m slow`` has the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

import pytest

_LONG_WHEN_INTERPRETED = {
    "test_any_case",
    "test_ties_of_the_kth_stay_and_ties_of_the_nucleus_go_by_column",
}


def spare_the_usual_pairings(items: Iterable[pytest.Item]) -> None:
    """Of a test marked ``spread(times)``, keep cases that have every value ``times`` times.

    A fault shows in a family, or in a router, far more often than in one pairing of the two alone.
    So each value of each parameter is in the default set, with ``times`` companions as far as there
    are so many, and the other pairings are slow.
    """
    tests: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("spread"):
            tests[item.nodeid.partition("[")[0]].append(item)
    for cases in tests.values():
        mark = cases[0].get_closest_marker("spread")
        assert mark is not None
        places = [_place(case) for case in cases]
        kept = cover(places, *mark.args)
        for case, place in zip(cases, places, strict=True):
            if place not in kept:
                case.add_marker(pytest.mark.slow)


def _place(item: pytest.Item) -> tuple[int, ...]:
    """Which value each of its parameters has; the cases of a test share the values themselves."""
    return tuple(map(id, item.callspec.params.values()))  # type: ignore[attr-defined]


def cover(places: Sequence[tuple[int, ...]], times: int = 1) -> set[tuple[int, ...]]:
    """Choose places, in their order, that hold each value of each axis ``times`` times or more.

    Args:
        places: the cases, as a number for the value on each axis. Not every combination need exist.
        times: how often each value is wanted; all of its cases are taken where it has fewer.
    """
    wanted = {(axis, value): times for place in places for axis, value in enumerate(place)}
    kept: set[tuple[int, ...]] = set()
    met: set[object] = set()  # pairings that are in what is kept

    def gain(place: tuple[int, ...]) -> tuple[int, int]:
        """Gaps that it fills, and pairings that are new."""
        keys = list(enumerate(place))
        return sum(wanted[key] > 0 for key in keys), len({*combinations(keys, 2)} - met)

    while left := [place for place in places if place not in kept]:
        best = max(left, key=gain)  # the first of those
        if not gain(best)[0]:
            break
        kept.add(best)
        met |= {*combinations(enumerate(best), 2)}
        for key in enumerate(best):
            wanted[key] -= 1
    return kept


def examples(few: int, whole: int) -> pytest.MarkDecorator:
    """Gives a test ``examples``, how many of hypothesis's it is to try: ``few`` by default."""
    return pytest.mark.parametrize("examples", [few, pytest.param(whole, marks=pytest.mark.slow)])


def spare_the_interpreter(items: Iterable[pytest.Item]) -> None:
    """Of each test one case runs by default; Triton's interpreter takes seconds for the others."""
    seen = set()
    for item in items:
        if not hasattr(item, "callspec") or not of_triton(item):
            continue
        name = item.path.name, item.originalname  # type: ignore[attr-defined]
        if name in seen or name[1] in _LONG_WHEN_INTERPRETED:
            item.add_marker(pytest.mark.slow)
        seen.add(name)


def of_triton(item: pytest.Item) -> bool:
    """Whether a case runs a Triton kernel."""
    call = getattr(item, "callspec", None)
    return "_triton" in item.path.name or (call is not None and "triton" in call.params.values())
