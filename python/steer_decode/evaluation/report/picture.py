"""A picture of the report.

One matplotlib figure with its words and its numbers.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...util.files import replacing
from ...util.palette import COLOURS
from ...util.text import printable, significant
from .bootstrap import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET, RULE = (COLOURS[name].light for name in ("ink", "quiet", "rule"))
SIZE = (4.4, 3.6)
_TWO_COLUMNS = 26
_LINE, _LINES = 0.17, 3
_STYLE = {
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial", "sans-serif"],
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.hashsalt": "steer",
}


@dataclass(frozen=True)
class Picture:
    """One figure.

    Attributes:
        name: of its files and of its place in the page.
        title, caption: what it shows and how to read it.
        alt: what it says, for those who do not see it.
        figure: of matplotlib.
        header, rows: the numbers that are drawn.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def inline(self) -> str:
        """The picture as SVG for a page.

        Its colours are variables of the page, so that they follow light and dark.
        """
        text = self._svg("none")
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', self._open, text, count=1)
        # Several pictures share one page: each has names of its own.
        text = re.sub(r'\bid="', f'id="{self.name}-', text)
        text = re.sub(r"url\(#", f"url(#{self.name}-", text)
        text = re.sub(r'xlink:href="#', f'href="#{self.name}-', text)
        for name, colour in COLOURS.items():
            text = re.sub(colour.light, f"var(--{name})", text, flags=re.IGNORECASE)
        return text

    def _open(self, found: re.Match[str]) -> str:
        label = (
            printable(self.alt).replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        )
        return f'<svg viewBox="{found[1]}" role="img" aria-label="{label}">'

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.svg and NAME.png, each through a temporary file."""
        paths = [folder / f"{self.name}.svg", folder / f"{self.name}.png"]
        image = io.BytesIO()
        with _context("path"):
            self.figure.savefig(image, format="png", dpi=200, facecolor="white")
        for path, data in zip(paths, (self._svg("path").encode(), image.getvalue()), strict=True):
            with replacing(path) as place:
                place.write_bytes(data)
        return paths

    def _svg(self, fonttype: str) -> str:
        stream = io.StringIO()
        with _context(fonttype):
            # Without a date the same results make the same file.
            self.figure.savefig(
                stream, format="svg", metadata={"Date": None}, transparent=fonttype == "none"
            )
        return stream.getvalue()


def _context(fonttype: str) -> Any:
    import matplotlib

    return matplotlib.rc_context({**_STYLE, "svg.fonttype": fonttype})


def write(figure: Figure, file: Path) -> None:
    """Write a figure to a file.

    Its suffix names the format. The same figure makes the same file.

    Raises:
        SteerError: the file cannot be written.
    """
    dated = {".svg": "Date", ".pdf": "CreationDate"}.get(file.suffix.lower())
    metadata = {dated: None} if dated else None
    with replacing(file) as place, _context("path"):
        figure.savefig(place, dpi=200, metadata=metadata, facecolor="white")


def canvas(rows: int = 1, height: float = SIZE[1], sharex: bool = False) -> tuple[Figure, Any]:
    """A figure that fits a phone, and its axes.

    One, or as many as ``rows``.
    """
    from matplotlib.figure import Figure

    with _context("none"):
        figure = Figure(figsize=(SIZE[0], height), layout="constrained")
        axes = figure.subplots(rows, 1, sharex=sharex)
    return figure, axes


def legend(figure: Figure, axes: Any) -> None:
    """One legend below, for what ``axes`` has labels for."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        names = [shortened(label) for label in labels]
        columns = 2 if max(map(len, names)) <= _TWO_COLUMNS else 1
        # The figure grows with its legend, so that the axes keep their height.
        lines = math.ceil(len(names) / columns)
        figure.set_figheight(figure.get_figheight() + _LINE * max(0, lines - _LINES))
        figure.legend(
            handles,
            names,
            loc="outside lower center",
            ncols=columns,
            fontsize=8.5,
            labelcolor=INK,
            frameon=False,
            handlelength=1.6,
            columnspacing=1.2,
        )


def shortened(name: str, limit: int = 44) -> str:
    """``name`` as a label.

    It is not too long, and holds no mathematics for matplotlib to typeset.
    """
    shown = printable(name)
    short = shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
    return short.replace("$", r"\$")


def errors(values: Sequence[Interval], scale: float = 1.0) -> list[list[float]]:
    """Distances to both bounds, for ``errorbar``.

    None where there is no interval.
    """
    return [
        [scale * max(0.0, v.value - v.low) if math.isfinite(v.low) else 0.0 for v in values],
        [scale * max(0.0, v.high - v.value) if math.isfinite(v.high) else 0.0 for v in values],
    ]


def percent(value: Interval, signed: bool = False) -> str:
    """``71.7 [68.7, 74.6]``, in per cent or points."""
    if not math.isfinite(value.value):
        return "-"
    form = "+.1f" if signed else ".1f"
    low, high = (f"{100 * bound:{form}}" for bound in (value.low, value.high))
    return f"{100 * value.value:{form}} [{low}, {high}]"


def ratio(value: Interval) -> str:
    """``0.71 [0.69, 0.73]``."""
    if not math.isfinite(value.value):
        return "-"
    low, high = significant(value.low), significant(value.high)
    return f"{significant(value.value)} [{low}, {high}]"
