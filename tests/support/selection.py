"""What runs by default of tests with many cases, and what in CI; no case is lost.

All of the thinning out is here; `conftest.py` calls it. What a default run leaves out is marked
slow, and what CI leaves out as well is marked exhaustive: ``make test-exhaustive`` runs that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

import pytest

_LONG_WHEN_INTERPRETED = {"test_ties_of_the_kth_stay_and_ties_of_the_nucleus_go_by_column"}

# Beside these there is test_a_few_cases_when_interpreted.
_TOO_LONG_WHEN_INTERPRETED = {"test_any_case"}

# Seconds a case, and dozens of them: in CI the interpreter has the first, and of the others every
# fourth, of products of two parameters every twelfth, from the one that is named here on, so that
# each test has others. All cases are for the other backends, and exhaustive.
_MANY_WHEN_INTERPRETED = {
    "test_a_draft_from_the_same_distribution_always_stands": 0,
    "test_a_draft_of_no_known_distribution_has_to_be_the_token": 1,
    "test_a_place_without_a_draft_is_sampled": 3,
    "test_every_k": 3,
    "test_every_outcome_is_found_where_its_share_lies": 2,
    "test_every_token_is_found_where_its_share_lies": 0,
    "test_heat_gives_no_weight_to_masked_columns": 5,
    "test_infinities_share_all_of_the_mass": 3,
    "test_invalid_rows_and_infinities": 2,
    "test_invalid_rows_are_flagged_and_stay_alone": 4,
    "test_nothing_in_common_gives_p": 2,
    "test_padding_dtypes_and_strides_may_differ": 2,
    "test_rows_that_are_not_valid": 3,
    "test_shapes_and_dtypes": 5,
    "test_sums_need_no_luck_with_their_reference": 7,
    "test_the_statistics_are_those_of_logit_stats": 2,
    "test_tokens_are_in_range_and_never_masked": 6,
}


def spare_the_usual_pairings(items: Iterable[pytest.Item]) -> None:
    """Of a test marked ``spread(times)``, keep cases that have every value ``times`` times.

    A fault shows in a family, or in a router, far more often than in one pairing of the two alone.
    So each value of each parameter is in the default set, with ``times`` companions as far as there
    are so many, and the other pairings are slow. With ``spread(times, ci=more)`` CI has ``more``
    companions of each, and what is left is exhaustive.
    """
    for cases in _by_test(item for item in items if item.get_closest_marker("spread")):
        mark = cases[0].get_closest_marker("spread")
        assert mark is not None
        times = mark.args[0] if mark.args else 1
        _keep(cases, pytest.mark.slow, times)
        if "ci" in mark.kwargs:
            _keep(cases, pytest.mark.exhaustive, times, mark.kwargs["ci"])


def spare_what_many_cases_show(items: Iterable[pytest.Item]) -> None:
    """Of a test marked ``few(n)``, n cases run by default, as far apart as can be.

    For cases that take a second and show the same thing, over families or routers.
    """
    marked = (i for i in items if i.get_closest_marker("few") and not i.get_closest_marker("slow"))
    for cases in _by_test(marked):
        mark = cases[0].get_closest_marker("few")
        assert mark is not None
        kept = {len(cases) * i // mark.args[0] for i in range(mark.args[0])}
        for at, case in enumerate(cases):
            if at not in kept:
                case.add_marker(pytest.mark.slow)


def what_ci_leaves_out_is_slow(items: Iterable[pytest.Item]) -> None:
    """So ``not slow`` is the default set, whatever was marked exhaustive and how."""
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker(pytest.mark.slow)


def _by_test(items: Iterable[pytest.Item]) -> Iterable[list[pytest.Item]]:
    """The cases of each test."""
    tests: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    return tests.values()


def _keep(cases: Sequence[pytest.Item], mark: pytest.MarkDecorator, *times: int) -> None:
    """Put `mark` on all cases but those that have every value so often, by each of `times`."""
    places = [_place(case) for case in cases]
    kept = {place for often in times for place in cover(places, often)}
    for case, place in zip(cases, places, strict=True):
        if place not in kept:
            case.add_marker(mark)


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


def one_of_three(*places: int) -> pytest.MarkDecorator:
    """Slow or exhaustive, by where a case's values stand among those of its three parameters.

    A Latin square: slow is a third of all cases, in which every two values meet if the third
    parameter has three values or more.
    """
    return pytest.mark.exhaustive if sum(places) % 3 else pytest.mark.slow


def spare_the_interpreter(items: Iterable[pytest.Item]) -> None:
    """Of each test one case runs by default; Triton's interpreter takes seconds for the others."""
    items = list(items)
    many = (i for i in items if _name(i) in _MANY_WHEN_INTERPRETED and of_triton(i))
    for cases in _by_test(many):
        first, step = _MANY_WHEN_INTERPRETED[_name(cases[0])], 4 if len(cases) < 10 else 12
        for at, case in enumerate(cases):
            if at and at % step != first:  # the first of all runs by default
                case.add_marker(pytest.mark.exhaustive)
    seen = set()
    for item in items:
        if not hasattr(item, "callspec") or not of_triton(item):
            continue
        name = item.path.name, _name(item)
        if name[1] in _TOO_LONG_WHEN_INTERPRETED:
            item.add_marker(pytest.mark.exhaustive)
        elif name in seen or name[1] in _LONG_WHEN_INTERPRETED:
            item.add_marker(pytest.mark.slow)
        seen.add(name)


def _name(item: pytest.Item) -> str:
    """That of the test, without its parameters."""
    return item.originalname  # type: ignore[attr-defined]


def of_triton(item: pytest.Item) -> bool:
    """Whether a case runs a Triton kernel."""
    call = getattr(item, "callspec", None)
    return "_triton" in item.path.name or (call is not None and "triton" in call.params.values())
