"""One evaluation for each size of cohort, side by side.

How many answers does it take to judge them together? STEER fits its mixture to the steps of a
cohort (arXiv 2511.06190). Small cohorts follow the question and the step at hand; large ones
estimate better. This is the ablation over their size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SteerError
from ..util.files import replacing, write_whole
from ..util.text import cell, dump
from .report.bootstrap import RESAMPLES, Bootstrap
from .report.data import Results, load
from .report.measure import RouterFigures, measure

_MIX = "flops_paper"


@dataclass(frozen=True)
class Size:
    """One size of cohort: what each router reached in it."""

    size: int
    problems: int
    seeds: int
    figures: Sequence[RouterFigures]


def compare(folders: Mapping[int, Path], resamples: int = RESAMPLES) -> list[Size]:
    """Read the results of each size, with the same resamples.

    Raises:
        SteerError: folders that answer different problems, which would not compare.
    """
    found: list[Size] = []
    first: Results | None = None
    for size, folder in folders.items():
        results = load([folder])
        first = first or results
        if set(first.names) != set(results.names) or first.seeds != results.seeds:
            raise SteerError(
                f"{str(folder)!r} answers other problems or seeds than the sizes before it: "
                "let `steer eval` finish, or choose another --out"
            )
        boot = Bootstrap([domain for domain, _ in results.names], resamples)
        figures = measure(results, boot, None, seconds=False).routers
        found.append(Size(size, len(results.names), len(results.seeds), figures))
    return found


def records(sizes: Sequence[Size]) -> list[dict[str, Any]]:
    """One record of plain data for each router and size.

    Intervals are [value, low, high]. Costs are ratios to the large model alone where that was run.
    """
    return [
        {
            "router": figure.router,
            "cohort": size.size,
            "problems": size.problems,
            "seeds": size.seeds,
            "accuracy": list(figure.accuracy),
            "above_mix": {key: list(value) for key, value in figure.above_chance.items()},
            "costs": {
                key: list(value) for key, value in figure.costs.items() if key != "bytes_read"
            },
            "hand_overs": figure.hand_overs,
            "discarded_tokens": figure.discarded,
        }
        for size in sizes
        for figure in size.figures
    ]


def markdown(sizes: Sequence[Size]) -> str:
    """A table with a line for each router and size.

    Both models alone stand in it once.
    """
    lines = [
        f"### Cohort sizes, {sizes[0].problems} problems, {sizes[0].seeds} seed(s)",
        "",
        "| router | cohort | accuracy % | above the mix | FLOPs, papers | FLOPs, processed "
        "| large tokens % | tokens taken back |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for router in [figure.router for figure in sizes[0].figures]:
        for size in sizes:
            figure = next(f for f in size.figures if f.router == router)
            alone = figure.kind in ("small", "large")
            lines.append(_line(figure, "any" if alone else str(size.size)))
            if alone:
                break
    lines += [
        "",
        "FLOPs are ratios to the large model alone; above the mix is in points of accuracy, "
        "against the random mix of whole questions at the same FLOPs as papers count. In brackets "
        "95 % intervals.",
        "",
    ]
    return "\n".join(lines)


def _line(figure: RouterFigures, cohort: str) -> str:
    value, low, high = (100 * x for x in figure.accuracy)
    above = ""
    if figure.kind not in ("small", "large") and _MIX in figure.above_chance:
        mean, least, most = (100 * x for x in figure.above_chance[_MIX])
        above = f"{mean:+.1f} ({least:+.1f} to {most:+.1f})"
    cells = [
        cell(figure.router),
        cohort,
        f"{value:.1f} ({low:.1f} to {high:.1f})",
        above,
        f"{figure.costs['flops_paper'].value:.2f}",
        f"{figure.costs['flops_processed'].value:.2f}",
        f"{100 * figure.costs['share'].value:.0f}",
        f"{figure.discarded:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def draw(sizes: Sequence[Size], path: Path) -> None:
    """Draw accuracy above the random mix, and cost, by size.

    The suffix of the file is the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from ..util.palette import COLOURS
    from .report.picture import shortened
    from .report.styles import styles

    names = [(f.router, f.kind) for f in sizes[0].figures if f.kind == "routed"]
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    x = [size.size for size in sizes]
    for name, style in styles(names).items():
        mine = [next(f for f in size.figures if f.router == name) for size in sizes]
        above = [f.above_chance.get(_MIX) for f in mine]
        if all(interval is not None for interval in above):
            y = [100 * a.value for a in above if a]
            bars = [[100 * (a.value - a.low) for a in above if a]]
            bars.append([100 * (a.high - a.value) for a in above if a])
            axes[0].errorbar(
                x, y, bars, color=style.light, marker=style.marker, label=shortened(name), capsize=2
            )
        costs = [f.costs[_MIX].value for f in mine]
        axes[1].plot(x, costs, color=style.light, marker=style.marker, label=shortened(name))
    axes[0].axhline(0, linestyle="--", color=COLOURS["chance"].light)
    axes[0].set_ylabel("accuracy above the random mix, points")
    axes[1].set_ylabel("FLOPs as papers count, large alone = 1")
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set_xticks(x, [str(size) for size in x])
        axis.set_xlabel("answers judged together")
        axis.grid(color=COLOURS["rule"].light, linewidth=0.5)
    axes[0].legend(fontsize=8, frameon=False)
    try:
        with replacing(path) as place:
            figure.savefig(place, dpi=150)
    finally:
        pyplot.close(figure)


def write(folder: Path, sizes: Sequence[Size]) -> None:
    """Write ``group-sizes.json`` and ``group-sizes.md``."""
    write_whole(folder / "group-sizes.json", dump(records(sizes), indent=1) + "\n")
    write_whole(folder / "group-sizes.md", markdown(sizes))
