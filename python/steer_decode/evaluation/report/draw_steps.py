"""Pictures of single steps.

Where the large model writes, and what confidence is worth.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...util.palette import COLOURS, SURE, UNSURE
from .bootstrap import Bootstrap
from .confidence import Reliability, Scores
from .data import Results
from .draw import curves
from .picture import INK, Picture, canvas, errors, legend, percent, shortened
from .series import Series, by_difficulty, by_position, difficulties
from .styles import Style

_RIGHT, _WRONG = SURE.light, UNSURE.light
_FEW = 10
_WRITER = {"small": Style("small", "o"), "large": Style("large", "s")}


def use_by_position(
    results: Results, boot: Bootstrap, styles: Mapping[str, Style], routers: Sequence[str]
) -> Picture:
    series = [(r, styles[r], by_position(results, boot, r)) for r in routers]
    figure, axes = canvas()
    curves(axes, series)
    axes.set(xlabel="step of the answer", ylabel="tokens by the large model, %", ylim=(-3, 103))
    axes.xaxis.get_major_locator().set_params(integer=True)
    legend(figure, axes)
    return Picture(
        name="use-by-position",
        title="Use of the large model, by step",
        caption="Share of kept tokens that the large model wrote, at each position; bands are 95 % "
        "intervals. Positions that fewer than 5 answers reach are left out.",
        alt="Share of tokens by the large model, by position. " + ends(series),
        figure=figure,
        header=["router", "step", "by the large model, %", "answers"],
        rows=series_rows(series),
    )


def use_by_difficulty(
    results: Results, boot: Bootstrap, styles: Mapping[str, Style], routers: Sequence[str]
) -> list[Picture]:
    """Draw the large model's share, and accuracy, by difficulty.

    None where problems have no difficulty.
    """
    if len(difficulties(results)) < 2:
        return []
    pictures = []
    for what, title, label in (
        ("large", "Use of the large model, by difficulty", "tokens by the large model, %"),
        ("correct", "Accuracy, by difficulty", "right answers, %"),
    ):
        some = list(routers)
        if what == "correct":
            some += [r for w in ("small", "large") if (r := results.alone(w)) is not None]
        series = [(r, styles[r], by_difficulty(results, boot, r, what)) for r in some]
        figure, axes = canvas()
        curves(axes, series)
        axes.set(xlabel="difficulty of the problem", ylabel=label, ylim=(-3, 103))
        axes.set_xticks(difficulties(results))
        legend(figure, axes)
        pictures.append(
            Picture(
                name=f"{'use' if what == 'large' else 'accuracy'}-by-difficulty",
                title=title,
                caption="Bands are 95 % intervals. What a difficulty means is up to the task.",
                alt=f"{title}. {ends(series)}",
                figure=figure,
                header=["router", "difficulty", label, "answers"],
                rows=series_rows(series),
            )
        )
    return pictures


def ends(series: Sequence[tuple[str, Style, Series]]) -> str:
    """First and last points, in words."""
    return (
        "; ".join(
            f"{name}: {100 * s.y[0].value:.0f} % at {s.x[0]:g}, "
            f"{100 * s.y[-1].value:.0f} % at {s.x[-1]:g}"
            for name, _, s in series
            if s.x
        )
        + "."
    )


def series_rows(series: Sequence[tuple[str, Style, Series]]) -> list[list[str]]:
    """All points, as rows of a table."""
    return [
        [name, f"{x:.3g}", percent(y), str(n)]
        for name, _, s in series
        for x, y, n in zip(s.x, s.y, s.n, strict=True)
    ]


def right_and_wrong(signal: str, groups: Sequence[Scores]) -> Picture:
    """Draw histograms of the scores under one signal.

    Each writer has a panel.
    """
    figure, axes = canvas(rows=len(groups), height=1.1 + 1.7 * len(groups))
    panels = list(np.atleast_1d(axes))
    for panel, group in zip(panels, groups, strict=True):
        values = np.concatenate([group.right, group.wrong])
        low, high = np.percentile(values, [0.5, 99.5])
        edges = np.linspace(low, high if high > low else low + 1, 31)
        for part, colour, label, hatch in (
            (group.right, _RIGHT, "right", ""),
            (group.wrong, _WRONG, "wrong", "////"),
        ):
            if part:
                _histogram(panel, np.clip(part, edges[0], edges[-1]), edges, colour, label, hatch)
        panel.set_title(f"written by the {group.writer} model", fontsize=9, loc="left", color=INK)
        panel.set_ylabel("steps, %")
    panels[-1].set_xlabel(f"mean {shortened(signal)} of the step")
    both = max(panels, key=lambda panel: len(panel.get_legend_handles_labels()[0]))
    legend(figure, both)
    words = "; ".join(
        f"{g.writer} model: {len(g.right):,} right, {len(g.wrong):,} wrong"
        + (
            ""
            if math.isnan(g.auroc)
            else f", a right one is surer than a wrong one in {100 * g.auroc:.0f} % of pairs"
        )
        for g in groups
    )
    return Picture(
        name="scores-" + re.sub(r"[^\w-]+", "-", signal)[:60],
        title=f"Confidence of right and wrong steps: {signal}",
        caption=f"{words[0].upper()}{words[1:]} (area under the ROC curve; 50 % is chance). "
        f"Each group adds up to 100 %; fewer than {_FEW} steps are strokes. "
        "Steps of all routers that read this signal.",
        alt=f"Histograms of the mean {signal} of right and of wrong steps. {words}.",
        figure=figure,
        header=["writer", "steps", "number", "lower quartile", "median", "upper quartile"],
        rows=[
            [
                g.writer,
                name,
                str(len(part)),
                *(f"{q:.3g}" for q in np.percentile(part, [25, 50, 75])),
            ]
            for g in groups
            for name, part in (("right", g.right), ("wrong", g.wrong))
            if part
        ],
    )


def _histogram(panel: Any, values: Any, edges: Any, colour: str, label: str, hatch: str) -> None:
    label = f"{label} steps"
    if len(values) < _FEW:
        # A bar of 100 % for two steps would say more than there is: each is a stroke.
        rug = np.zeros(len(values))
        panel.plot(values, rug, "|", color=colour, markersize=16, markeredgewidth=2, label=label)
        return
    weights = np.full(len(values), 100 / len(values))
    panel.hist(values, edges, weights=weights, color=colour, alpha=0.25)
    line = {"histtype": "step", "color": colour, "linewidth": 1.4, "hatch": hatch, "label": label}
    panel.hist(values, edges, weights=weights, **line)


def calibration_curve(curve: Reliability, number: int) -> Picture:
    """How often a step of a given confidence is right."""
    figure, axes = canvas()
    if curve.probability:
        diagonal = COLOURS["chance"].light
        axes.plot([0, 1], [0, 100], color=diagonal, linestyle="--", linewidth=1.2, label="diagonal")
    for writer, s in curve.series.items():
        style = _WRITER[writer]
        axes.errorbar(
            s.x,
            [100 * y.value for y in s.y],
            yerr=errors(s.y, 100),
            color=style.light,
            marker=style.marker,
            markersize=5.5,
            linewidth=1.3,
            elinewidth=1,
            label=f"{writer} model's steps",
        )
    axes.set(xlabel=shortened(curve.measure, 80), ylabel="right steps, %", ylim=(-3, 103))
    legend(figure, axes)
    labelled: list[tuple[str, Style, Series]] = [
        (f"{writer} model's steps", _WRITER[writer], s) for writer, s in curve.series.items()
    ]
    return Picture(
        name=f"calibration-{number}",
        title=f"Calibration: {curve.router}",
        caption=_bins(curve) + " Bars are 95 % intervals.",
        alt=f"Share of right steps against the {curve.measure}. {ends(labelled)}",
        figure=figure,
        header=["writer", curve.measure, "right steps, %", "steps"],
        rows=series_rows(labelled),
    )


def _bins(curve: Reliability) -> str:
    if curve.probability:
        return (
            "Ten bins of equal width. On the diagonal, steps are right as often as the posterior "
            "says."
        )
    return "Ten bins with as many steps each."
