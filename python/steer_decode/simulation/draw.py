"""A comparison under load, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..evaluation.report.picture import canvas, legend, write
from ..util.palette import COLOURS
from .compare import Comparison

SUFFIXES = (".svg", ".png", ".pdf")
_ROUTED, _ALONE, _SMALL = (COLOURS[name].light for name in ("r0", "large", "small"))
_TOP = 8  # times the least of the slowest; beyond it a queue grows, and the run's length decides


def draw(found: Comparison, file: Path) -> None:
    """Draw latency and batches by load.

    An engine with continuous batching is busy at little load already: its passes grow.

    Args:
        found: the comparison.
        file: its suffix is one of :data:`SUFFIXES`.
    """
    figure, axes = canvas(rows=3, height=7.2, sharex=True)
    latency, first, batch = axes
    rates = [point.rate for point in found.points]
    routed = [point.routed for point in found.points]
    alone = [point.alone for point in found.points]
    _times(latency, rates, [f.latency for f in routed], [f.latency for f in alone])
    _times(first, rates, [f.first for f in routed], [f.first for f in alone])
    latency.set_ylabel("seconds of an answer")
    first.set_ylabel("seconds to its first token")
    for label, colour, marker, values in (
        ("small engines, routed", _SMALL, "o", [f.rows["small"] for f in routed]),
        ("large engines, routed", _ROUTED, "D", [f.rows["large"] for f in routed]),
        ("large engines alone", _ALONE, "s", [f.rows["large"] for f in alone]),
    ):
        batch.plot(rates, values, color=colour, marker=marker, markersize=4, label=label)
    batch.set_ylabel("rows of a pass, mean")
    batch.set_ylim(bottom=0)
    batch.set_xlabel("answers a second that are asked for")
    batch.legend(fontsize=7.5, loc="upper left", frameon=False)
    for axis in axes:
        for turn in found.turns:
            axis.axvline(turn, color=COLOURS["quiet"].light, linestyle=":", linewidth=1.2)
    if found.turns:
        latency.plot(
            [], [], color=COLOURS["quiet"].light, linestyle=":", label="the faster changes"
        )
    legend(figure, latency)
    write(figure, file)


def _times(axis: Any, rates: list[float], routed: list[Any], alone: list[Any]) -> None:
    for name, colour, marker, values in (
        ("routed", _ROUTED, "D", routed),
        ("large alone", _ALONE, "s", alone),
    ):
        for p, style, shown in ((50, "-", marker), (95, "--", None)):
            axis.plot(
                rates,
                [each[p] for each in values],
                color=colour,
                marker=shown,
                markersize=4,
                linestyle=style,
                label=f"{name}, p{p}",
            )
    least = max(each[0][95] for each in (routed, alone))
    axis.set_ylim(0, min(axis.get_ylim()[1], _TOP * least))
