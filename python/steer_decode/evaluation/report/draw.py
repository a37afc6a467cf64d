"""Pictures of accuracy, cost and chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...util.palette import COLOURS
from ...util.text import duration, si, significant
from .measure import SHARE, CostAxis, RouterFigures, Scope
from .picture import INK, Picture, canvas, errors, legend, percent, ratio, shortened
from .styles import Style

_CHANCE = COLOURS["chance"].light


def accuracy_against_cost(
    scope: Scope, cost: CostAxis, styles: Mapping[str, Style], name: str
) -> Picture:
    """Draw each router as a point beside the random mix.

    Points have intervals both ways; the mix is a line.
    """
    figure, axes = canvas()
    line = scope.lines.get(cost.key)
    scale = 100 if cost is SHARE else 1
    if line is not None:
        at = [scale * x for x in line.costs]
        low, high = ([100 * y[side] for y in line.accuracy] for side in (1, 2))
        axes.fill_between(at, low, high, color=_CHANCE, alpha=0.18, linewidth=0)
        middle = [100 * y.value for y in line.accuracy]
        axes.plot(at, middle, color=_CHANCE, linestyle="--", linewidth=1.3, label="random mix")
    shown_random = False
    for router in scope.routers:
        style, x = styles[router.router], router.costs[cost.key]
        if not math.isfinite(x.value):
            continue
        control = router.kind == "random"
        label = "random steps" if control else router.router
        axes.errorbar(
            scale * x.value,
            100 * router.accuracy.value,
            xerr=errors([x], scale),
            yerr=errors([router.accuracy], 100),
            color=style.light,
            marker=style.marker,
            markersize=5 if control else 7.5,
            linestyle="none",
            elinewidth=1,
            label=None if control and shown_random else label,
            zorder=3,
        )
        shown_random |= control
    axes.set(xlabel=axis_label(scope, cost), ylabel="right answers, %")
    # A little room, so that the small model is not cut in half at 0.
    axes.set_xlim(left=-0.025 * axes.get_xlim()[1])
    legend(figure, axes)
    where = "" if scope.name == "all" else f", {scope.name}"
    return Picture(
        name=name,
        title=f"Accuracy against {cost.name}{where}",
        caption=_caption(scope, cost),
        alt=_alt(scope, cost),
        figure=figure,
        header=[
            "router",
            "right answers, %",
            axis_label(scope, cost),
            "random mix at that cost, %",
        ],
        rows=[_row(router, cost) for router in scope.routers],
    )


def axis_label(scope: Scope, cost: CostAxis) -> str:
    if cost is SHARE:
        return "tokens by the large model, %"
    if scope.relative:
        return f"{cost.name}, large model alone = 1"
    return f"{cost.name} per answer, {cost.unit}"


def _caption(scope: Scope, cost: CostAxis) -> str:
    if cost is SHARE:
        return "0 % is the small model alone, 100 % the large one."
    large = next((r for r in scope.routers if r.kind == "large"), None)
    if large is None:
        return "Means per answer."
    value = large.absolute[cost.key]
    return f"1 is {duration(value) if cost.unit == 's' else si(value) + cost.unit} per answer."


def _alt(scope: Scope, cost: CostAxis) -> str:
    points = [
        f"{r.router} {100 * r.accuracy.value:.1f} % at {cost_text(r, cost)}" for r in scope.routers
    ]
    return f"Accuracy against {cost.name}. " + "; ".join(points) + "."


def cost_text(router: RouterFigures, cost: CostAxis) -> str:
    value = router.costs[cost.key].value
    return f"{100 * value:.0f} %" if cost is SHARE else significant(value)


def _row(router: RouterFigures, cost: CostAxis) -> list[str]:
    x = router.costs[cost.key]
    above = router.above_chance.get(cost.key)
    chance = math.nan if above is None else router.accuracy.value - above.value
    return [
        router.router,
        percent(router.accuracy),
        percent(x) if cost is SHARE else ratio(x),
        "-" if math.isnan(chance) else f"{100 * chance:.1f}",
    ]


def above_chance(scope: Scope, styles: Mapping[str, Style], name: str) -> Picture | None:
    """Draw accuracy minus that of an equally dear random mix.

    For every way to count the cost.
    """
    some = [r for kind in ("routed", "random") for r in scope.routers if r.kind == kind]
    some = [r for r in some if r.above_chance]
    if not some:
        return None
    gap = len(scope.costs) + 1.3
    figure, axes = canvas(height=1.2 + 0.17 * gap * len(some))
    axes.axvline(0, color=_CHANCE, linestyle="--", linewidth=1.3)
    fills = ("full", "none", "left", "bottom", "top")
    ticks = []
    for place, router in enumerate(some):
        colour = styles[router.router].light
        for offset, (cost, fill) in enumerate(zip(scope.costs, fills, strict=False)):
            value = router.above_chance[cost.key]
            if not math.isfinite(value.value):
                continue
            axes.errorbar(
                100 * value.value,
                place * gap + offset,
                xerr=errors([value], 100),
                color=colour,
                marker="o",
                markersize=5.5,
                fillstyle=fill,
                elinewidth=1.2,
            )
        ticks.append(place * gap + (len(scope.costs) - 1) / 2)
    axes.set_yticks(ticks, [_broken(router.router) for router in some])
    axes.set_ylim(len(some) * gap - 1, -1.3)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("points above the random mix at equal cost")
    for cost, fill in zip(scope.costs, fills, strict=False):
        axes.plot([], [], "o", color=INK, fillstyle=fill, markersize=5.5, label=cost.name)
    legend(figure, axes)
    best = max(some, key=lambda r: r.above_chance[scope.costs[0].key].value)
    return Picture(
        name=name,
        title="Against chance at equal cost",
        caption="Accuracy minus that of the random mix that costs as much, paired over problems, "
        "with 95 % intervals. An interval that holds 0 shows no clear difference.",
        alt="Points above the random mix at equal cost. "
        + "; ".join(
            f"{r.router}: "
            + ", ".join(f"{percent(r.above_chance[c.key], True)} by {c.name}" for c in scope.costs)
            for r in some
        )
        + f". Highest: {best.router}.",
        figure=figure,
        header=["router", *(f"by {cost.name}" for cost in scope.costs)],
        rows=[
            [r.router, *(percent(r.above_chance[c.key], True) for c in scope.costs)] for r in some
        ],
    )


def _broken(name: str) -> str:
    """A long name over several lines, at the colons between its settings."""
    return "\n".join(shortened(part, 20) for part in name.split(":"))


def curves(axes: Any, series: Sequence[tuple[str, Style, Any]]) -> None:
    """Lines with their intervals as bands."""
    for label, style, points in series:
        y = [100 * v.value for v in points.y]
        axes.plot(
            points.x,
            y,
            color=style.light,
            marker=style.marker,
            markersize=5,
            linewidth=1.5,
            label=label,
        )
        low, high = ([100 * v[side] for v in points.y] for side in (1, 2))
        axes.fill_between(points.x, low, high, color=style.light, alpha=0.12, linewidth=0)
