"""The area under a family's accuracy-cost curve.

A family is one router at several settings of its knob; its curve is that of ``util.numbers``. It is
taken anew in each resample of the bootstrap, the same resamples for all families, so that
differences are paired. As the highest line above noisy points it flatters families of many settings
a little; how many each has is given beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...util.numbers import area, corners
from .bootstrap import Array, Interval, difference, mean_share
from .data import Results

KNOBS = (
    *("share", "threshold", "gamma", "cut", "sure"),
    *("k", "n"),  # lengths of drafts, and of what leads a step
    *("delta", "eps", "alpha", "rollback", "theta", "fallback"),  # of rules by which drafts stay
)


@dataclass(frozen=True)
class Family:
    """One router at one or several settings of its knob.

    Attributes:
        name: as the routers were asked for, without the knob.
        routers: their names.
        areas: mean accuracy over the budgets, by key of the cost.
        counted: how many of the routers cost no more than the large model alone, likewise.
        curves: corners of the curve of all problems, cost (large model alone = 1) and accuracy.
    """

    name: str
    routers: Sequence[str]
    areas: Mapping[str, Interval]
    counted: Mapping[str, int]
    curves: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Areas:
    """All families on some problems.

    Attributes:
        families: in the order of the results.
        differences: area of the first minus that of the second, by the names of both and the key of
            the cost; of all pairs, either way round.
    """

    families: Sequence[Family]
    differences: Mapping[tuple[str, str], Mapping[str, Interval]]

    def best(self, key: str) -> Family:
        """The family of the largest area by one cost."""
        return max(self.families, key=lambda family: family.areas[key].value)


def families(results: Results) -> dict[str, list[str]]:
    """Routers by family; either model alone belongs to none.

    Two routers are of one family if their full descriptions differ in the knob only, one of
    :data:`KNOBS`.
    """
    names: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for router in results.routers:
        if results.kind(router) in ("small", "large"):
            continue
        described = str(results.settings["routers"][router]).partition(" on ")[0]
        name = names.setdefault(_without_knob(described), _without_knob(router))
        found.setdefault(name, []).append(router)
    return found


def _without_knob(name: str) -> str:
    return ":".join(part for part in name.split(":") if part.partition("=")[0] not in KNOBS)


def measure_areas(
    results: Results, costs: Mapping[str, Array], accuracy: Array, problems: int
) -> Areas | None:
    """Measure the areas of all families.

    None without both models alone or without a family.

    Args:
        results: whose routers are the columns.
        costs: by key, [1 + resamples, routers], ratios to the large model alone.
        accuracy: likewise.
        problems: how many.
    """
    ends = [results.alone(writer) for writer in ("small", "large")]
    grouped = families(results)
    if None in ends or not grouped:
        return None
    column = {router: i for i, router in enumerate(results.routers)}
    small, large = (column[router] for router in ends if router is not None)
    samples: dict[str, dict[str, Array]] = {}
    made = []
    for name, routers in grouped.items():
        places = [small, *(column[router] for router in routers), large]
        x = {key: cost[:, places] for key, cost in costs.items()}
        y = accuracy[:, places]
        samples[name] = {key: area(cost, y) for key, cost in x.items()}
        made.append(
            Family(
                name=name,
                routers=routers,
                areas={key: mean_share(sample, problems) for key, sample in samples[name].items()},
                counted={k: int((c[0, 1:-1] <= c[0, -1]).sum()) for k, c in x.items()},
                curves={key: corners(cost[0], y[0]) for key, cost in x.items()},
            )
        )
    differences = {
        (a, b): {key: difference(samples[a][key] - samples[b][key], problems) for key in costs}
        for a in samples
        for b in samples
        if a != b
    }
    return Areas(made, differences)
