"""Rows as a picture.

Latency against batch, and bandwidth beside that of a copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import SteerError
from ...util.files import replacing
from .report import MOVED_TWICE

SUFFIXES = (".png", ".svg")
_MARKERS = "osD^vP*X"

Record = Mapping[str, Any]


def check_plot(path: Path, option: str = "--plot") -> None:
    """Check that a picture of this name can be drawn.

    Raises:
        SteerError: the name ends in something else than .png or .svg, or matplotlib is missing.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise SteerError(f"{option} must end in .png or .svg, got {str(path)!r}")
    if find_spec("matplotlib") is None:
        raise SteerError(f"{option} needs matplotlib: pip install steer-kernels[plot]")


def draw(rows: Sequence[Record], path: Path, title: str) -> None:
    """Write the picture; the suffix of ``path`` chooses the format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    ops = list(dict.fromkeys(row["op"] for row in rows))
    size = (6 * len(ops), 8)
    figure, axes = pyplot.subplots(2, len(ops), figsize=size, squeeze=False, layout="constrained")
    for column, op in enumerate(ops):
        here = [row for row in rows if row["op"] == op]
        _latency(axes[0][column], op, here)
        _bandwidth(axes[1][column], here)
    figure.suptitle(title)
    try:
        with replacing(path) as place:
            figure.savefig(place, dpi=150)
    finally:
        pyplot.close(figure)


def _latency(axes: Any, op: str, rows: Sequence[Record]) -> None:
    """One vocabulary, one dtype and one number of threads: the largest, narrowest and first."""
    vocab = max((row["vocab"] for row in rows), key=lambda v: v or 0)
    some = [row for row in rows if row["vocab"] == vocab]
    dtype, threads = some[-1]["dtype"], some[0]["threads"]
    some = [row for row in some if row["dtype"] == dtype and row["threads"] == threads]
    ours = sorted({row["batch"]: row["median_us"] for row in some}.items())
    axes.plot(*zip(*ours, strict=True), marker="o", linewidth=2.5, color="black", label="steer")
    for peer, marker in zip(dict.fromkeys(row["peer"] for row in some), _MARKERS, strict=False):
        theirs = sorted((row["batch"], row["peer_us"]) for row in some if row["peer"] == peer)
        axes.plot(*zip(*theirs, strict=True), marker=marker, linewidth=1, markersize=4, label=peer)
    where = "" if vocab is None else f", V = {vocab}"
    _finish(axes, f"{op}, {dtype}{where}", "batch", "microseconds")
    batches = [batch for batch, _ in ours]
    axes.set_xticks(batches, labels=map(str, batches))
    axes.minorticks_off()


def _bandwidth(axes: Any, rows: Sequence[Record]) -> None:
    """Every case by its bytes; the roof is what a copy of those same bytes moves."""
    roof = {}
    for place, dtype in enumerate(dict.fromkeys(row["dtype"] for row in rows)):
        some = [row for row in rows if row["dtype"] == dtype]
        points = sorted({row["gbps"] * row["median_us"] * 1e3: row["gbps"] for row in some}.items())
        axes.scatter(*zip(*points, strict=True), marker=_MARKERS[place], s=22, label=dtype)
        for row in some:
            if row["peer"] == "copy":
                moved = 2 if row["op"] in MOVED_TWICE else 1
                size = row["gbps"] * row["median_us"] * 1e3
                roof[size] = moved * size / row["peer_us"] / 1e3
    if roof:
        axes.plot(*zip(*sorted(roof.items()), strict=True), color="grey", label="copy of the input")
    _finish(axes, "", "bytes that one call has to move", "GB/s")


def _finish(axes: Any, title: str, x: str, y: str) -> None:
    axes.set(xscale="log", yscale="log", title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
