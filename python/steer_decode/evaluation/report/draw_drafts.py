"""Pictures of drafts.

How far into a draft its tokens stay, and how many of them do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .bootstrap import Bootstrap
from .data import Results
from .draw import curves
from .draw_steps import ends, series_rows
from .picture import Picture, canvas, legend
from .series import LONGEST_DRAFT, Series, by_place, lengths
from .styles import Style


def pictures(
    results: Results, boot: Bootstrap, styles: Mapping[str, Style], routers: Sequence[str]
) -> list[Picture]:
    """Both pictures, of routers that draft; none without one."""
    if not routers:
        return []
    return [
        _picture(
            [(r, styles[r], by_place(results, boot, r)) for r in routers],
            "drafts-by-place",
            "Drafted tokens that stay, by place",
            "place in the draft",
            "tokens that stay, %",
            "Of the drafted tokens at each place that the large model came to, those before it "
            "having stayed, how many stayed. Places that fewer than 5 drafts reach are left out, "
            f"and those beyond {LONGEST_DRAFT}.",
        ),
        _picture(
            [(r, styles[r], lengths(results, boot, r)) for r in routers],
            "draft-lengths",
            "Length of accepted drafts",
            "tokens of the draft that stayed",
            "drafts, %",
            "Of all drafts that the large model read, how many kept so many tokens. With each "
            "comes one token more, which the large model writes in the same pass. More than "
            f"{LONGEST_DRAFT} count as {LONGEST_DRAFT}.",
        ),
    ]


def _picture(
    series: Sequence[tuple[str, Style, Series]],
    name: str,
    title: str,
    across: str,
    up: str,
    caption: str,
) -> Picture:
    figure, axes = canvas()
    curves(axes, series)
    axes.set(xlabel=across, ylabel=up, ylim=(-3, 103))
    axes.xaxis.get_major_locator().set_params(integer=True)
    legend(figure, axes)
    return Picture(
        name=name,
        title=title,
        caption=f"{caption} Bands are 95 % intervals.",
        alt=f"{title}. {ends(series)}",
        figure=figure,
        header=["router", across, up, "drafts"],
        rows=series_rows(series),
    )
