"""Pictures of the curves whose areas compare families of routers."""

from __future__ import annotations

from collections.abc import Mapping

from .area import Areas, Family
from .draw import axis_label
from .measure import CostAxis, Scope
from .picture import Picture, canvas, legend, percent
from .styles import Style

_RANDOM = "chance"


def curves(scope: Scope, styles: Mapping[str, Style]) -> list[Picture]:
    """Draw the curve of every family, for each cost.

    None where there are no areas.
    """
    areas = scope.areas
    if areas is None:
        return []
    keys = areas.families[0].areas
    return [_curve(scope, areas, cost, styles) for cost in scope.costs if cost.key in keys]


def _curve(scope: Scope, areas: Areas, cost: CostAxis, styles: Mapping[str, Style]) -> Picture:
    figure, axes = canvas()
    accuracy = {router.router: router.accuracy.value for router in scope.routers}
    costs = {router.router: router.costs[cost.key].value for router in scope.routers}
    for family in areas.families:
        style = styles[family.routers[0]]
        x, y = zip(*family.curves[cost.key], strict=True)
        dashes = ":" if style.colour == _RANDOM else "-"
        line = {"color": style.light, "linestyle": dashes, "linewidth": 1.3}
        axes.plot(x, [100 * value for value in y], **line)
        # The legend has line and marker: more than five families share colours.
        axes.plot([], [], marker=style.marker, markersize=4.5, label=family.name, **line)
        end = x[-1]
        shown = [router for router in family.routers if costs[router] <= end]
        axes.plot(
            [costs[router] for router in shown],
            [100 * accuracy[router] for router in shown],
            color=style.light,
            marker=style.marker,
            markersize=4.5,
            linestyle="none",
        )
    axes.set(xlabel=axis_label(scope, cost), ylabel="right answers, %")
    legend(figure, axes)
    ranked = sorted(areas.families, key=lambda family: -family.areas[cost.key].value)
    return Picture(
        name=f"area-{cost.key.replace('_', '-')}",
        title=f"Curves by {cost.name}",
        caption="Marks are settings that cost no more than the large model alone; the line is what "
        "a budget buys by mixing them with each other and with either model alone.",
        alt=f"Mean accuracy over budgets by {cost.name}. "
        + "; ".join(f"{family.name} {percent(family.areas[cost.key])} %" for family in ranked)
        + ".",
        figure=figure,
        header=["router", "mean accuracy over budgets, %", "above it is the best by, points"],
        rows=[_row(areas, family, cost) for family in ranked],
    )


def _row(areas: Areas, family: Family, cost: CostAxis) -> list[str]:
    best = areas.best(cost.key)
    behind = "-"
    if family.name != best.name:
        behind = percent(areas.differences[best.name, family.name][cost.key], True)
    return [family.name, percent(family.areas[cost.key]), behind]
