"""Replayed cascades as a picture of accuracy against cost.

There is one panel for each way to sum up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.signals import SIGNALS
from ...core.transcript import WRITERS
from ...policies.query_cascade import OVER
from ...util.files import replacing
from ...util.palette import COLOURS
from ..report.picture import shortened
from .sweep import Curve, Sweep

_AXES = {"flops_paper": "FLOPs as papers count", "flops_processed": "FLOPs processed"}
_STYLES = ("-", "--", "-.", ":")


def draw(
    found: Sweep, path: Path, others: Mapping[str, tuple[float, Mapping[str, float]]] | None = None
) -> None:
    """Write the picture; the suffix of ``path`` chooses the format.

    Args:
        found: of :func:`~steer_decode.evaluation.replay.sweep.sweep`.
        others: routers that were run on the same problems, as (accuracy, costs per answer); a
            point each.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(_AXES), len(OVER), figsize=(3.3 * len(OVER), 6.4), sharey=True, layout="constrained"
    )
    for row, (cost, name) in zip(axes, _AXES.items(), strict=True):
        for axis, over in zip(row, OVER, strict=True):
            curves = [curve for curve in found.curves if curve.over == over]
            _panel(axis, found, curves, cost, others or {})
            axis.set_title(f"over = {over}", fontsize=9)
            axis.set_xlabel(f"{name}, large alone = 1", fontsize=8)
        row[0].set_ylabel("accuracy %", fontsize=8)
    axes[0][0].legend(fontsize=7, frameon=False)
    figure.suptitle(
        f"Query cascades replayed from {found.answers} answers of either model", fontsize=11
    )
    try:
        with replacing(path) as place:
            figure.savefig(place, dpi=150)
    finally:
        pyplot.close(figure)


def _panel(
    axis: Any,
    found: Sweep,
    curves: Sequence[Curve],
    cost: str,
    others: Mapping[str, tuple[float, Mapping[str, float]]],
) -> None:
    unit = found.alone["large"][1][cost]
    ends = [(found.alone[w][1][cost] / unit, 100 * found.alone[w][0].value) for w in WRITERS]
    axis.plot(*zip(*ends, strict=True), "--", color=COLOURS["chance"].light, label="random mix")
    for (x, y), writer, marker in zip(ends, WRITERS, "os", strict=True):
        axis.plot([x], [y], marker, color=COLOURS[writer].light)
        axis.annotate(writer, (x, y), textcoords="offset points", xytext=(4, -10), fontsize=7)
    for i, curve in enumerate(curves):
        xs = [point.costs[cost] / unit for point in curve.points]
        ys = [100 * point.accuracy.value for point in curve.points]
        colour = COLOURS[f"r{list(SIGNALS).index(curve.signal) % 5}"].light
        axis.plot(xs, ys, _STYLES[i % 4], color=colour, label=curve.signal, linewidth=1.3)
    for name, (accuracy, costs) in others.items():
        at = costs[cost] / unit, 100 * accuracy
        axis.plot(*[[v] for v in at], "x", color=COLOURS["ink"].light, markersize=5)
        axis.annotate(shortened(name), at, textcoords="offset points", xytext=(4, 3), fontsize=6)
    axis.grid(color=COLOURS["rule"].light, linewidth=0.5)
    axis.tick_params(labelsize=7)
